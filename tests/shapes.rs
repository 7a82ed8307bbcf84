//! Guests written in text.
