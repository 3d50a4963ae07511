//! Folders and files of this program's own: nobody but their owner may look into them, and nothing is written through a
//! symbolic link.
//!
//! All that blobs hold, and all that gives access, is written through here. What was made before, by hand or by an
//! earlier version, is closed to others where this user owns it.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// The folder of a migration. Neither it nor anything in it may be a symbolic link, also where it is only read.
const OWN: &str = ".migrate";

/// Makes a folder, and those above it, where they are missing.
///
/// # Errors
/// Where it can't be made, or something else is in its place.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    check(path)?;
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    match own(path).next() {
        Some(folder) => close(&folder),
        None => Ok(()),
    }
}

/// Makes a file, or empties the one that is there.
///
/// # Errors
/// Where it can't be made, or is a symbolic link.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().create(true).truncate(true), path)
}

/// Makes a file.
///
/// # Errors
/// `AlreadyExists` where there is something; where it can't be made.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().create_new(true), path)
}

/// Opens a file for writing, and makes it where it is missing.
///
/// # Errors
/// Where it can't be opened, or is a symbolic link.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().create(true).truncate(false), path)
}

/// Reads a file of text.
///
/// # Errors
/// Where it can't be read, or is reached by a symbolic link in the folder of the migration.
pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    check(path)?;
    fs::read_to_string(path)
}

/// Refuses a path that goes through a symbolic link in the folder of the migration.
///
/// # Errors
/// `PermissionDenied` where it does.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match own(path).find(|part| part.is_symlink()) {
        Some(link) => Err(is_link(&link)),
        None => Ok(()),
    }
}

/// Closes a file or folder to all others, where this user owns it.
///
/// # Errors
/// Where it can't be looked at.
#[cfg(unix)]
pub(crate) fn close(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut permissions = fs::metadata(path)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(permissions.mode() & 0o700);
        // What is another's is theirs to close.
        fs::set_permissions(path, permissions).ok();
    }
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn close(_path: &Path) -> io::Result<()> {
    Ok(())
}

fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    check(path)?;
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    }
    let file = options.open(path).map_err(|error| if path.is_symlink() { is_link(path) } else { error })?;
    close(path)?;
    Ok(file)
}

/// The folder of the migration in a path, and what the path names in it, the outermost first.
fn own(path: &Path) -> impl Iterator<Item = PathBuf> {
    let mut walked = PathBuf::new();
    let mut is_own = false;
    path.components().filter_map(move |component| {
        walked.push(component);
        is_own |= component == Component::Normal(OWN.as_ref());
        is_own.then(|| walked.clone())
    })
}

/// What is there is a symbolic link.
#[derive(Debug, thiserror::Error)]
#[error("{} is a symbolic link, and none is followed here", .0.display())]
struct Link(PathBuf);

fn is_link(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Link(path.to_owned()))
}

/// The error of a file or folder that can't be used: what is known of the cause, else as the caller has it.
#[must_use]
pub(crate) fn failed(otherwise: Error, path: &Path, error: io::Error) -> Error {
    if is_full(&error) {
        let folder =
            path.ancestors().skip(usize::from(!path.is_dir())).find(|folder| *folder != Path::new(""));
        return no_space(otherwise.operation().to_owned(), folder.unwrap_or(Path::new("."))).source(error);
    }
    if error.get_ref().is_some_and(|cause| cause.is::<Link>()) {
        let refused = Error::new(ErrorKind::Usage, otherwise.operation().to_owned()).message(error);
        return refused.hint("put in its place what it leads to, or name another place");
    }
    otherwise.source(error)
}

/// Whether a disk is full, or what this user may have of it.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The error of a full disk.
#[must_use]
pub(crate) fn no_space(operation: impl Into<Cow<'static, str>>, folder: &Path) -> Error {
    Error::new(ErrorKind::NoSpace, operation).message(format!("no space left in {}", folder.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("it is there").permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    #[test]
    fn nobody_else_may_look_into_it() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = place.path().join("state/archive");
        for _ in 0..2 {
            make(&folder).expect("a folder");
        }
        for folder in [&folder, &place.path().join("state")] {
            assert_eq!(mode(folder), 0o700, "{}", folder.display());
        }
        let file = folder.join("file");
        for open in [create_new, create, open_or_create] {
            open(&file).and_then(|mut file| file.write_all(b"x")).expect("a file");
            assert_eq!(mode(&file), 0o600);
            set_mode(&file, 0o644);
        }
        create_new(&file).expect_err("it is there");
        make(&file).expect_err("a file is in its place");
    }

    #[test]
    fn what_was_open_to_others_is_closed() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (own, others) = (place.path().join(".migrate"), place.path().join("others"));
        for folder in [&own, &others] {
            fs::create_dir_all(folder.join("tls")).expect("a folder");
            set_mode(folder, 0o755);
            make(&folder.join("tls")).expect("it is there");
        }
        assert_eq!((mode(&own), mode(&others)), (0o700, 0o755), "a folder of others stays as it is");
    }

    #[test]
    fn nothing_is_written_through_a_symbolic_link() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (target, link) = (place.path().join("target"), place.path().join("link"));
        fs::write(&target, "kept").expect("a file");
        symlink(&target, &link).expect("a link");
        for open in [create_new, create, open_or_create] {
            let error = open(&link).expect_err("it is a link");
            assert!(error.to_string().contains("link is a symbolic link"), "{error}");
        }
        assert_eq!(read_to_string(&link).expect("reading is another matter"), "kept");
        for own in ["linked/.migrate", "real/.migrate/tls"] {
            let own = place.path().join(own);
            fs::create_dir_all(own.parent().expect("a parent")).expect("a folder");
            symlink(place.path(), &own).expect("a link");
            for error in [make(&own.join("a")), read_to_string(&own.join("target")).map(drop), check(&own)] {
                assert_eq!(error.expect_err("it is a link").kind(), io::ErrorKind::PermissionDenied);
            }
        }
        assert!(!place.path().join("a").exists());
    }
}
