//! Hostile guests and hostile clients, each beside an innocent tenant: `beside` asks it steadily, and
//! every answer must be right and in time, no worker may die, and the host's memory has a bound. The
//! attackers are written as text (`guests`), or are the `hostile-*` guests.
//!
//! What the runtime's advisories were about, and where it is tested, or why not. Each is covered as a
//! class, not by its own reproduction.
//!
//! | advisory | its class | test |
//! | --- | --- | --- |
//! | GHSA-6wgr-89rj-399p, -wh6w-3828-g9qf | a slot shows what another instance left, or its image | `holding::nobody_sees_what_another_left_behind`; `serving.rs` with `guests/residue` |
//! | GHSA-852m-cvvp-9p4w | handles, buffers and lists of a guest's choosing | `holding::handles`, `fields_*`, `computing::calls_that_have_much_to_look_at` |
//! | GHSA-x84v-gj2h-g759 | an allocation of a guest's size, in streams of 0.3 | no test: `guests` has no streams of 0.3; the runtime that is built here is newer than the mend |
//! | GHSA-gqmc-89g8-p25r, -6fr9-xmw9-5352, -5m8g-xhq4-4h93 | host memory that a guest holds | `holding::methods_*`, `authorities_*`, `paths_*`, `fields_*` |
//! | GHSA-f8mm-ggr3-89wh | writes of nothing, to HTTP/2 | `holding::pieces_without_content`, to HTTP/1; `clients::windows_that_let_nothing_through` has HTTP/2 clients that do not read |
//! | GHSA-c9gc | bodies that are filled and not sent | `holding::bodies_that_nobody_sends` |
//! | GHSA-q554-3cjc-rx7p | handle tables that nothing counts | `holding::handles` |
//! | GHSA-243v-98vx-264h | a panic at too many fields | `holding::many_fields_at_once` |
//! | GHSA-xjhv-v822-pf94 | a panic when a call's future is dropped | `bodies::clients_that_go_at_every_moment_behind_the_head` |
//! | GHSA-w4qr-p94g-mjhv | timeouts of zero | `computing::polling_without_a_timeout_and_yielding` |
//! | GHSA-43j2-gcp4-m22g | a panic that a guest causes | every test: `beside` fails when a worker dies |
//! | GHSA-p8xm-42r7-89xg | a table larger than the address space | `artifacts::modules_that_explode` |
//! | GHSA-w36r-2hch-9xp9 | a panic at a long URL | `holding::paths_as_long_as_a_call_allows` |
//! | GHSA-j366-h8gg-77pm, -m63x-6p34-q65x, -jqpg-j7w6-42pr | work that costs no fuel | `computing`: what all of those end by is the deadline, with fuel for ever |
//! | GHSA-2hw9-mc66-jc2q | preemption inside a bulk operation | `computing::operations_that_nothing_interrupts` |
//! | GHSA-vqjp-4c8c-hfgg, -m9f7-9w4p-gv38 | ways out of a directory | `directories.rs`, `prowling.rs` |
//! | GHSA-4ch3-9j33-3pmj, -2r75-cxrj-cmph | writing where only reading is granted | `directories.rs` |
//! | GHSA-3p27 | descriptors that `fd_renumber` leaks | `reaching::programs_that_dig_hoard_and_renumber` |
//! | GHSA-r8xh-cgf7-392j, -9prg-84vf-g5fc, -h4wp-g4x3-7398 | bodies not as long as declared | `bodies::bodies_not_as_long_as_declared`, `responses.rs` |
//! | GHSA-jxcf-8qw5-5c33 | forbidden fields in trailers | `bodies::trailers_that_are_not_the_guests_to_send` |
//! | GHSA-5qpp | the host in an absolute target | `front_end.rs` |
//! | GHSA-hmmr-87qq-258j | UDP past the list of peers | `prowling.rs` |
//! | GHSA-32h6-97mm-8q3c | the native stack | `computing::deep_recursion` |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "hostile/artifacts.rs"]
mod artifacts;
#[path = "hostile/beside.rs"]
mod beside;
#[path = "hostile/bodies.rs"]
mod bodies;
#[path = "hostile/clients.rs"]
mod clients;
#[path = "hostile/computing.rs"]
mod computing;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "hostile/guests.rs"]
mod guests;
#[path = "hostile/holding.rs"]
mod holding;
#[path = "hostile/reaching.rs"]
mod reaching;
