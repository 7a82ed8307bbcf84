//! `wasi:filesystem` 0.3.

use super::quota::{Full, Quota};
use super::{LISTED_MAX, TooMany, reserve_entry};
use crate::state::State;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Access, Accessor, FutureReader, Linker, Resource, Source, StreamConsumer, StreamReader,
    StreamResult,
};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p3::bindings::filesystem::preopens;
use wasmtime_wasi::p3::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, DirectoryEntry, ErrorCode, HostDescriptorWithStore, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p3::filesystem::FilesystemResult;

/// The versions that wasmtime-wasi links, which stand for all that are compatible with them.
const PREOPENS: &str = "wasi:filesystem/preopens@0.3.0";
const TYPES: &str = "wasi:filesystem/types@0.3.0";
/// Bytes of one write.
const PIECE_BYTES: usize = 64 << 10;

type Fd = Resource<Descriptor>;
/// An answer in the interface's terms; an error beside it ends the guest.
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;
type Done = FutureReader<Result<(), ErrorCode>>;

impl From<Full> for ErrorCode {
    fn from(_: Full) -> Self {
        Self::InsufficientSpace
    }
}

impl From<TooMany> for ErrorCode {
    fn from(_: TooMany) -> Self {
        // The interface has no word for this one.
        Self::InsufficientMemory
    }
}

fn answer<T>(result: FilesystemResult<T>) -> Answer<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

fn borrowed(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

fn access<'a>(store: StoreContextMut<'a, State>) -> Access<'a, State, WasiFilesystem> {
    Access::new(store, |state| state.filesystem())
}

fn quota(store: &Accessor<State>, fd: &Fd) -> Option<Arc<Quota>> {
    store.with(|mut store| store.get().quota(fd))
}

/// Replaces functions of WASI's own. The linker allows shadowing.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(PREOPENS)?.func_wrap("get-directories", |mut store, (): ()| {
        let state: &mut State = store.data_mut();
        state.directories()?;
        let directories = preopens::Host::get_directories(&mut state.filesystem())?;
        state.files().given(&directories);
        Ok((directories,))
    })?;
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_concurrent("[method]descriptor.open-at", |store, params| {
        Box::pin(async move { answer(open_at(store, params).await) })
    })?;
    types.func_wrap_concurrent("[method]descriptor.create-directory-at", |store, params| {
        let (fd, path): (Fd, String) = params;
        Box::pin(async move {
            let fs = store.with_getter::<WasiFilesystem>(State::filesystem);
            answer(match reserve_entry(quota(store, &fd), 0).await {
                Ok(()) => WasiFilesystem::create_directory_at(&fs, fd, path).await,
                Err(full) => Err(ErrorCode::from(full).into()),
            })
        })
    })?;
    types.func_wrap_concurrent("[method]descriptor.symlink-at", |store, params| {
        let (fd, to, path): (Fd, String, String) = params;
        Box::pin(async move {
            let fs = store.with_getter::<WasiFilesystem>(State::filesystem);
            answer(match reserve_entry(quota(store, &fd), to.len()).await {
                Ok(()) => WasiFilesystem::symlink_at(&fs, fd, to, path).await,
                Err(full) => Err(ErrorCode::from(full).into()),
            })
        })
    })?;
    types.func_wrap_concurrent("[method]descriptor.link-at", |store, params| {
        let (fd, flags, path, to_fd, to): (Fd, PathFlags, String, Fd, String) = params;
        Box::pin(async move {
            let fs = store.with_getter::<WasiFilesystem>(State::filesystem);
            answer(match reserve_entry(quota(store, &to_fd), 0).await {
                Ok(()) => WasiFilesystem::link_at(&fs, fd, flags, path, to_fd, to).await,
                Err(full) => Err(ErrorCode::from(full).into()),
            })
        })
    })?;
    types.func_wrap("[method]descriptor.write-via-stream", |store, params| {
        let (fd, data, offset): (Fd, StreamReader<u8>, u64) = params;
        Ok((write_via_stream(store, &fd, data, Some(offset))?,))
    })?;
    types.func_wrap("[method]descriptor.append-via-stream", |store, params| {
        let (fd, data): (Fd, StreamReader<u8>) = params;
        Ok((write_via_stream(store, &fd, data, None)?,))
    })?;
    types.func_wrap_async("[method]descriptor.read-directory", |store, (fd,): (Fd,)| {
        Box::new(async move { Ok((read_directory(store, fd).await?,)) })
    })
}

type OpenParams = (Fd, PathFlags, String, OpenFlags, DescriptorFlags);

async fn open_at(store: &Accessor<State>, params: OpenParams) -> FilesystemResult<Fd> {
    let (dir, follow, path, how, flags) = params;
    let fs = store.with_getter::<WasiFilesystem>(State::filesystem);
    store.with(|mut store| store.get().files().room()).map_err(ErrorCode::from)?;
    match WasiFilesystem::stat_at(&fs, borrowed(&dir), follow, path.clone()).await {
        Ok(stat) => match stat.type_ {
            DescriptorType::RegularFile
            | DescriptorType::Directory
            | DescriptorType::SymbolicLink => {}
            _ => return Err(ErrorCode::Unsupported.into()),
        },
        Err(_) if how.contains(OpenFlags::CREATE) => {
            reserve_entry(quota(store, &dir), 0).await.map_err(ErrorCode::from)?;
        }
        Err(error) => return Err(error),
    }
    let opened = WasiFilesystem::open_at(&fs, borrowed(&dir), follow, path, how, flags).await?;
    store.with(|mut store| {
        let (files, table) = store.get().files_and_table();
        files.opened(&dir, &opened, table.get(&opened)?);
        Ok(opened)
    })
}

/// At an offset, or at the end.
fn write_via_stream(
    mut store: StoreContextMut<'_, State>,
    fd: &Fd,
    data: StreamReader<u8>,
    offset: Option<u64>,
) -> wasmtime::Result<Done> {
    let under = store.data().quota(fd);
    let file = match store.data().table.get(fd)? {
        Descriptor::File(file) if !file.perms.write_not_permitted() => Some(file.file.clone()),
        _ => None,
    };
    let (Some(quota), Some(file)) = (under, file) else {
        let fd = borrowed(fd);
        return match offset {
            Some(offset) => WasiFilesystem::write_via_stream(access(store), fd, data, offset),
            None => WasiFilesystem::append_via_stream(access(store), fd, data),
        };
    };
    let (result, done) = oneshot::channel();
    data.pipe(&mut store, Writing { file, quota, offset, result: Some(result), piece: None })?;
    FutureReader::new(&mut store, done)
}

type Piece = Pin<Box<dyn Future<Output = io::Result<usize>> + Send>>;

/// Writes what a stream brings to a file under a quota.
struct Writing {
    file: Arc<File>,
    quota: Arc<Quota>,
    offset: Option<u64>,
    result: Option<oneshot::Sender<Result<(), ErrorCode>>>,
    piece: Option<Piece>,
}

impl Writing {
    fn end(&mut self, result: Result<(), ErrorCode>) {
        if let Some(sender) = self.result.take() {
            let _ = sender.send(result);
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

async fn write(
    file: Arc<File>,
    quota: Arc<Quota>,
    offset: Option<u64>,
    bytes: Vec<u8>,
) -> io::Result<usize> {
    quota.reserve(bytes.len() as u64, 0).await?;
    let write = move || match offset {
        Some(offset) => file.write_at(&bytes, offset),
        None => {
            let bytes = [io::IoSlice::new(&bytes)];
            let how = rustix::io::ReadWriteFlags::APPEND;
            Ok(rustix::io::pwritev2(&file, &bytes, 0, how)?)
        }
    };
    tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl StreamConsumer<State> for Writing {
    type Item = u8;

    /// A piece that was begun is finished, also when the stream is given up meanwhile.
    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, State>,
        source: Source<'_, u8>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        let mut source = source.as_direct(store);
        let piece = this.piece.get_or_insert_with(|| {
            let bytes = source.remaining();
            let bytes = bytes.get(..PIECE_BYTES).unwrap_or(bytes).to_vec();
            Box::pin(write(this.file.clone(), this.quota.clone(), this.offset, bytes))
        });
        let written = ready!(piece.as_mut().poll(cx));
        this.piece = None;
        Poll::Ready(Ok(match written {
            Ok(count) => {
                source.mark_read(count);
                if let Some(offset) = &mut this.offset {
                    *offset = offset.saturating_add(count as u64);
                }
                StreamResult::Completed
            }
            Err(error) => {
                this.end(Err(error.into()));
                StreamResult::Dropped
            }
        }))
    }
}

/// Reads all names first: WASI's own holds a thread for blocking work until the guest has read them.
async fn read_directory(
    mut store: StoreContextMut<'_, State>,
    fd: Fd,
) -> wasmtime::Result<(StreamReader<DirectoryEntry>, Done)> {
    let dir = match store.data().table.get(&fd)? {
        Descriptor::Dir(dir) => Arc::clone(&dir.dir),
        Descriptor::File(_) => return WasiFilesystem::read_directory(access(store), fd),
    };
    let listed = tokio::task::spawn_blocking(move || listed(&dir)).await;
    let (names, result) = match listed.unwrap_or(Err(ErrorCode::Io)) {
        Ok(names) => (names, Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
    let names = StreamReader::new(&mut store, names)?;
    let done = FutureReader::new(&mut store, async move { wasmtime::error::Ok(result) })?;
    Ok((names, done))
}

fn listed(dir: &File) -> Result<Vec<DirectoryEntry>, ErrorCode> {
    use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |error: rustix::io::Errno| ErrorCode::from(io::Error::from(error));
    let opened = openat(dir, ".", flags, Mode::empty()).map_err(failed)?;
    let mut names = Vec::new();
    for entry in Dir::new(opened).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() >= LISTED_MAX {
            return Err(ErrorCode::InsufficientMemory);
        }
        let kind = match entry.file_type() {
            FileType::Unknown => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            known => known,
        };
        let type_ = match kind {
            FileType::RegularFile => DescriptorType::RegularFile,
            FileType::Directory => DescriptorType::Directory,
            FileType::Symlink => DescriptorType::SymbolicLink,
            FileType::Fifo => DescriptorType::Fifo,
            FileType::Socket => DescriptorType::Socket,
            FileType::CharacterDevice => DescriptorType::CharacterDevice,
            FileType::BlockDevice => DescriptorType::BlockDevice,
            FileType::Unknown => DescriptorType::Other(None),
        };
        let name = name.to_str().map_err(|_| ErrorCode::IllegalByteSequence)?.to_owned();
        names.push(DirectoryEntry { type_, name });
    }
    Ok(names)
}
