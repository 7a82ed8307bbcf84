#![allow(clippy::unwrap_used)]

use super::*;
use tempfile::TempDir;

const KIND: GuestKind = GuestKind::Http02;

/// A store, and code that a compiler has left in it under a name of its own.
fn compiled(code: &[u8]) -> (TempDir, ArtifactStore, CodeId, Temporary) {
    let dir = TempDir::new().unwrap();
    let store = ArtifactStore::open(dir.path()).unwrap();
    let tmp = store.code_tmp();
    fs::write(tmp.path(), code).unwrap();
    let id = CodeId { artifact: Digest([7; 32]), metering: Metering::Fuel };
    (dir, store, id, tmp)
}

fn names(store: &ArtifactStore) -> usize {
    fs::read_dir(store.code_dir()).unwrap().count()
}

#[test]
fn sealed_code_is_sound_at_once_and_marked_when_it_is_settled() {
    let (_dir, store, id, tmp) = compiled(&vec![1; 100_000]);
    assert_eq!(store.seal(&id, KIND, tmp.path()).unwrap(), 100_000);
    assert!(store.code_is_sound(&id) && !store.is_settled(&id));
    store.settle(&id).unwrap();
    assert!(store.code_is_sound(&id) && store.is_settled(&id));
    assert_eq!(names(&store), 2);
}

#[test]
fn tiny_code_needs_no_mark() {
    let (_dir, store, id, tmp) = compiled(&[1; 100]);
    store.seal(&id, KIND, tmp.path()).unwrap();
    assert!(store.is_settled(&id));
    store.settle(&id).unwrap();
    assert!(store.code_is_sound(&id));
}

#[test]
fn what_is_not_as_it_was_sealed_is_not_marked() {
    let (_dir, store, id, tmp) = compiled(&vec![1; 100_000]);
    store.seal(&id, KIND, tmp.path()).unwrap();
    let path = code_path(store.code_dir(), &id);
    fs::write(&path, vec![2; 100_000]).unwrap();
    store.settle(&id).unwrap();
    assert!(!store.is_settled(&id) && !store.code_is_sound(&id));
    // As a loss of power may leave it.
    fs::write(&path, []).unwrap();
    store.settle(&id).unwrap();
    assert!(!store.is_settled(&id) && store.code_bytes(&id).is_none());
    assert_eq!(names(&store), 2);
}

#[test]
fn code_that_was_removed_comes_back_in_no_part() {
    let (_dir, store, id, tmp) = compiled(&vec![1; 100_000]);
    store.seal(&id, KIND, tmp.path()).unwrap();
    store.remove_code(&id.artifact);
    store.settle(&id).unwrap();
    assert_eq!(names(&store), 0);
}
