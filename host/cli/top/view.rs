//! What is on the screen: which rows, in which order, from where on, and which of them is chosen.

use super::columns::{Column, sort};
use super::detail::Detail;
use super::sample::{Row, Sample};
use anyhow::Result;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use insula_model::TenantName;
use insula_model::api::Activity;

/// The longest filter: a tenant's name has no more.
const FILTER_CHARS_MAX: usize = 63;

/// The state of the view.
pub(super) struct View {
    pub(super) now: Activity,
    pub(super) sample: Sample,
    pub(super) sort: Column,
    pub(super) reversed: bool,
    /// Part of a name or a namespace.
    pub(super) filter: String,
    /// Whether keys go to the filter.
    pub(super) typing: bool,
    /// Indices of the sample's rows that pass the filter, in order.
    pub(super) rows: Vec<usize>,
    /// Where among these the cursor is.
    pub(super) cursor: usize,
    /// The first of these on the screen; and how many fit, as the screen said last.
    pub(super) top: usize,
    pub(super) height: usize,
    /// The tenant that is shown closer.
    pub(super) shown: Option<TenantName>,
    pub(super) detail: Option<Box<Detail>>,
    /// Why the figures are old.
    pub(super) trouble: Option<String>,
}

/// What a key asks of the loop.
pub(super) enum Step {
    Stay,
    Quit,
    /// Fetch more about this tenant from now on, or about none.
    Show(Option<TenantName>),
}

impl View {
    pub(super) fn new(sort: Column, now: Activity) -> Self {
        let mut view = Self {
            sample: super::sample(None, &now),
            now,
            sort,
            reversed: false,
            filter: String::new(),
            typing: false,
            rows: Vec::new(),
            cursor: 0,
            top: 0,
            height: 1,
            shown: None,
            detail: None,
            trouble: None,
        };
        view.arrange();
        view
    }

    /// The row under the cursor.
    pub(super) fn chosen(&self) -> Option<&Row> {
        self.rows.get(self.cursor).and_then(|at| self.sample.rows.get(*at))
    }

    /// The row of the tenant that is shown closer.
    pub(super) fn row_shown(&self) -> Option<&Row> {
        let name = self.shown.as_ref()?;
        self.sample.rows.iter().find(|row| row.name == *name)
    }

    /// Takes an answer of the host's.
    pub(super) fn update(&mut self, activity: Result<Activity>) {
        match activity {
            Ok(now) => {
                let chosen = self.chosen().map(|row| row.name.clone());
                self.sample = super::sample(Some(&self.now), &now);
                self.now = now;
                self.trouble = None;
                self.arrange();
                self.follow(chosen.as_ref());
            }
            Err(error) => self.trouble = Some(format!("{error:#}")),
        }
    }

    /// Takes what the host says about the tenant that is shown closer.
    pub(super) fn detail(&mut self, detail: Result<Box<Detail>>) {
        match detail {
            // An answer about one that was left meanwhile.
            Ok(detail) if self.shown.as_ref() != Some(&detail.tenant.summary.name) => {}
            Ok(detail) => self.detail = Some(detail),
            Err(error) => self.trouble = Some(format!("{error:#}")),
        }
    }

    /// Sorts and filters.
    fn arrange(&mut self) {
        sort(&mut self.sample.rows, self.sort, self.reversed);
        let passes = |row: &Row| {
            row.name.as_str().contains(&self.filter)
                || row.namespace.to_string().contains(&self.filter)
        };
        let rows = self.sample.rows.iter().enumerate();
        self.rows = if self.filter.is_empty() {
            rows.map(|(at, _)| at).collect()
        } else {
            rows.filter(|(_, row)| passes(row)).map(|(at, _)| at).collect()
        };
        self.move_to(self.cursor);
    }

    /// Keeps the cursor on a tenant that has moved, unless it is at the top, where the first is of interest.
    fn follow(&mut self, name: Option<&TenantName>) {
        if self.cursor == 0 {
            return;
        }
        let rows = &self.sample.rows;
        let at = self.rows.iter().position(|at| Some(&rows[*at].name) == name);
        if let Some(at) = at {
            self.move_to(at);
        }
    }

    fn move_to(&mut self, cursor: usize) {
        self.cursor = cursor.min(self.rows.len().saturating_sub(1));
        self.scroll();
    }

    /// Has the cursor on the screen.
    pub(super) fn scroll(&mut self) {
        let lowest = (self.cursor + 1).saturating_sub(self.height);
        self.top = self.top.clamp(lowest, self.cursor);
        self.top = self.top.min(self.rows.len().saturating_sub(self.height));
    }

    fn sort_by(&mut self, column: Column) {
        self.reversed = column == self.sort && !self.reversed;
        self.sort = column;
        self.arrange();
    }

    fn sort_beside(&mut self, step: usize) {
        let all = Column::ALL;
        let at = all.iter().position(|column| *column == self.sort).unwrap_or(0);
        self.sort = all[(at + step) % all.len()];
        self.reversed = false;
        self.arrange();
    }

    /// Acts on a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Step {
        let ends = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        if ends {
            return Step::Quit;
        }
        if self.typing {
            self.type_filter(key.code);
            return Step::Stay;
        }
        if self.shown.is_some() {
            return self.press_in_detail(key.code);
        }
        let page = self.height.max(1);
        match key.code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => {
                self.filter.clear();
                self.arrange();
            }
            KeyCode::Up | KeyCode::Char('k') => self.move_to(self.cursor.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.move_to(self.cursor + 1),
            KeyCode::PageUp => self.move_to(self.cursor.saturating_sub(page)),
            KeyCode::PageDown => self.move_to(self.cursor.saturating_add(page)),
            KeyCode::Home => self.move_to(0),
            KeyCode::End => self.move_to(usize::MAX),
            KeyCode::Char('>') | KeyCode::Right => self.sort_beside(1),
            KeyCode::Char('<') | KeyCode::Left => self.sort_beside(Column::ALL.len() - 1),
            KeyCode::Enter => {
                self.shown = self.chosen().map(|row| row.name.clone());
                return Step::Show(self.shown.clone());
            }
            KeyCode::Char(c) => {
                let column = Column::ALL.into_iter().find(|column| column.key() == c);
                if let Some(column) = column {
                    self.sort_by(column);
                }
            }
            _ => {}
        }
        Step::Stay
    }

    fn press_in_detail(&mut self, code: KeyCode) -> Step {
        match code {
            KeyCode::Char('q') => Step::Quit,
            KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace | KeyCode::Left => {
                self.shown = None;
                self.detail = None;
                Step::Show(None)
            }
            _ => Step::Stay,
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.filter.extend(c.to_lowercase());
            }
            _ => {}
        }
        self.arrange();
    }
}
