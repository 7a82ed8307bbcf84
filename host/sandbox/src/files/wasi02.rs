//! `wasi:filesystem` 0.2.

use super::quota::Full;
use super::writing::Metered;
use super::{TooMany, can_be_listed, reserve_entry};
use crate::state::State;
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, DirectoryEntryStream, ErrorCode, HostDescriptor, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p2::{DynOutputStream, FsResult};

/// The version that wasmtime-wasi links, which stands for all that are compatible with it.
const PREOPENS: &str = "wasi:filesystem/preopens@0.2.12";
const TYPES: &str = "wasi:filesystem/types@0.2.12";

type Fd = Resource<Descriptor>;
/// An answer in the interface's terms; an error beside it ends the guest.
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

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

fn answer<T>(result: FsResult<T>) -> Answer<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
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
    types.func_wrap_async("[method]descriptor.open-at", |store, params| {
        Box::new(async move { answer(open_at(store, params).await) })
    })?;
    types.func_wrap_async("[method]descriptor.write", |store, params| {
        Box::new(async move { answer(write(store, params).await) })
    })?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store, (fd, offset): (Fd, u64)| {
            let stream = store.data_mut().filesystem().write_via_stream(borrowed(&fd), offset);
            answer(stream.and_then(|stream| metered(&mut store, &fd, stream)))
        },
    )?;
    types.func_wrap("[method]descriptor.append-via-stream", |mut store, (fd,): (Fd,)| {
        let stream = store.data_mut().filesystem().append_via_stream(borrowed(&fd));
        answer(stream.and_then(|stream| metered(&mut store, &fd, stream)))
    })?;
    types.func_wrap_async("[method]descriptor.create-directory-at", |mut store, params| {
        let (fd, path): (Fd, String) = params;
        Box::new(async move {
            answer(match reserve_entry(store.data().quota(&fd), 0).await {
                Ok(()) => store.data_mut().filesystem().create_directory_at(fd, path).await,
                Err(full) => Err(ErrorCode::from(full).into()),
            })
        })
    })?;
    types.func_wrap_async("[method]descriptor.symlink-at", |mut store, params| {
        let (fd, to, path): (Fd, String, String) = params;
        Box::new(async move {
            answer(match reserve_entry(store.data().quota(&fd), to.len()).await {
                Ok(()) => store.data_mut().filesystem().symlink_at(fd, to, path).await,
                Err(full) => Err(ErrorCode::from(full).into()),
            })
        })
    })?;
    types.func_wrap_async("[method]descriptor.link-at", |mut store, params| {
        let (fd, flags, path, to_fd, to): (Fd, PathFlags, String, Fd, String) = params;
        Box::new(async move {
            answer(match reserve_entry(store.data().quota(&to_fd), 0).await {
                Ok(()) => store.data_mut().filesystem().link_at(fd, flags, path, to_fd, to).await,
                Err(full) => Err(ErrorCode::from(full).into()),
            })
        })
    })?;
    types.func_wrap_async("[method]descriptor.read-directory", |store, (fd,): (Fd,)| {
        Box::new(async move { answer(read_directory(store, fd).await) })
    })
}

fn borrowed(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

type OpenParams = (Fd, PathFlags, String, OpenFlags, DescriptorFlags);

async fn open_at(mut store: StoreContextMut<'_, State>, params: OpenParams) -> FsResult<Fd> {
    let (dir, follow, path, how, flags) = params;
    let state = store.data_mut();
    state.files().room().map_err(ErrorCode::from)?;
    match state.filesystem().stat_at(borrowed(&dir), follow, path.clone()).await {
        Ok(stat) => match stat.type_ {
            DescriptorType::RegularFile
            | DescriptorType::Directory
            | DescriptorType::SymbolicLink => {}
            _ => return Err(ErrorCode::Unsupported.into()),
        },
        Err(_) if how.contains(OpenFlags::CREATE) => {
            reserve_entry(state.quota(&dir), 0).await.map_err(ErrorCode::from)?;
        }
        Err(error) => return Err(error),
    }
    let opened = state.filesystem().open_at(borrowed(&dir), follow, path, how, flags).await?;
    let (files, table) = state.files_and_table();
    files.opened(&dir, &opened, table.get(&opened)?);
    Ok(opened)
}

async fn write(
    mut store: StoreContextMut<'_, State>,
    (fd, bytes, offset): (Fd, Vec<u8>, u64),
) -> FsResult<u64> {
    if let Some(quota) = store.data().quota(&fd) {
        quota.reserve(bytes.len() as u64, 0).await.map_err(ErrorCode::from)?;
    }
    store.data_mut().filesystem().write(fd, bytes, offset).await
}

/// The stream itself where there is no quota.
fn metered(
    store: &mut StoreContextMut<'_, State>,
    fd: &Fd,
    stream: Resource<DynOutputStream>,
) -> FsResult<Resource<DynOutputStream>> {
    let Some(quota) = store.data().quota(fd) else { return Ok(stream) };
    let table = &mut store.data_mut().table;
    let inner = table.delete(stream)?;
    let metered: DynOutputStream = Box::new(Metered::new(inner, quota));
    Ok(table.push(metered)?)
}

async fn read_directory(
    mut store: StoreContextMut<'_, State>,
    fd: Fd,
) -> FsResult<Resource<DirectoryEntryStream>> {
    let state = store.data_mut();
    let (files, table) = state.files_and_table();
    if !files.may_list::<DirectoryEntryStream>(table) {
        return Err(ErrorCode::InsufficientMemory.into());
    }
    if let Descriptor::Dir(dir) = table.get(&fd)? {
        let dir = Arc::clone(&dir.dir);
        let small = tokio::task::spawn_blocking(move || can_be_listed(&dir)).await;
        if !small.unwrap_or(false) {
            return Err(ErrorCode::InsufficientMemory.into());
        }
    }
    let listing = state.filesystem().read_directory(fd).await?;
    state.files().listed(&listing);
    Ok(listing)
}
