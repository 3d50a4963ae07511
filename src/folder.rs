//! Folders for what blobs hold: nobody but their owner may look into them.

use std::fs::DirBuilder;
use std::io;
use std::path::Path;

/// Makes a folder, and those above it, where they are missing. What is there stays as it is.
///
/// # Errors
/// Where it can't be made, or something else is in its place.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nobody_else_may_look_into_it() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = place.path().join("state/archive");
        for _ in 0..2 {
            make(&folder).expect("a folder");
        }
        for folder in [&folder, &place.path().join("state")] {
            let mode = folder.metadata().expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
        }
        let file = place.path().join("file");
        std::fs::write(&file, "").expect("a file");
        make(&file).expect_err("a file is in its place");
    }
}
