//! Which file a program name means, by the rules and in the words of docker's runtime.

use std::path::{Path, PathBuf};

use hearth_guest_protocol::Error;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

/// Where programs are looked for when the environment has no PATH; what docker puts there.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds `program` as the calling process sees the file system, with its effective ids.
pub fn find(program: &str, environment: &[String]) -> Result<PathBuf, Error> {
    if program.contains('/') {
        return match runnable(Path::new(program)) {
            Ok(()) => Ok(PathBuf::from(program)),
            Err(errno) => Err(refused(program, errno)),
        };
    }
    // As for getenv(3), the first entry counts.
    let path = environment
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|directory| {
            Path::new(if directory.is_empty() { "." } else { directory }).join(program)
        })
        .find(|candidate| !program.is_empty() && runnable(candidate).is_ok())
        .ok_or_else(|| Error::NotFound {
            program: program.to_owned(),
            reason: "executable file not found in $PATH".to_owned(),
        })
}

/// What a failed execve(2) of `program` means.
pub fn refused(program: &str, errno: Errno) -> Error {
    let program = program.to_owned();
    match errno {
        Errno::NOENT => Error::NotFound {
            reason: format!("stat {program}: no such file or directory"),
            program,
        },
        Errno::NOTDIR => Error::NotFound {
            reason: format!("stat {program}: not a directory"),
            program,
        },
        Errno::ISDIR => Error::NotExecutable {
            program,
            // The kernel's own word for it is the second one, which is what docker's older clients look for.
            reason: "is a directory: permission denied".to_owned(),
        },
        Errno::ACCESS => Error::NotExecutable {
            program,
            reason: "permission denied".to_owned(),
        },
        Errno::NOEXEC => Error::NotExecutable {
            program,
            reason: "exec format error".to_owned(),
        },
        Errno::TOOBIG => Error::NotExecutable {
            program,
            reason: "argument list too long".to_owned(),
        },
        other => Error::NotExecutable {
            program,
            reason: other.to_string(),
        },
    }
}

fn runnable(path: &Path) -> Result<(), Errno> {
    if rustix::fs::FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    struct Tree {
        dir: tempfile::TempDir,
        env: Vec<String>,
    }

    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::create_dir(dir.path().join("a/tool")).unwrap();
        for (file, mode) in [("b/tool", 0o755), ("a/plain", 0o644)] {
            fs::write(dir.path().join(file), "").unwrap();
            fs::set_permissions(dir.path().join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = format!("PATH={0}/a:{0}/b", dir.path().display());
        Tree {
            dir,
            env: vec!["A=1".to_owned(), path],
        }
    }

    #[test]
    fn a_name_is_the_first_file_on_the_path_that_can_be_run() {
        let tree = tree();
        assert_eq!(
            find("tool", &tree.env).unwrap(),
            tree.dir.path().join("b/tool")
        );
    }

    #[test]
    fn a_name_that_nothing_on_the_path_has_is_not_found() {
        let tree = tree();
        for name in ["absent", "plain", ""] {
            let error = find(name, &tree.env).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("exec: {name:?}: executable file not found in $PATH")
            );
        }
    }

    #[test]
    fn a_path_is_taken_as_it_is_and_its_faults_are_named() {
        let tree = tree();
        let at = |name: &str| tree.dir.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(find(&at("b/tool"), &[]).unwrap(), Path::new(&at("b/tool")));
        let reason = |name: &str| find(&at(name), &tree.env).unwrap_err();
        assert!(
            matches!(reason("a/tool"), Error::NotExecutable { reason, .. } if reason.starts_with("is a directory"))
        );
        assert!(
            matches!(reason("a/plain"), Error::NotExecutable { reason, .. } if reason == "permission denied")
        );
        assert!(
            matches!(reason("absent"), Error::NotFound { reason, .. } if reason.ends_with("no such file or directory"))
        );
        assert!(
            matches!(reason("b/tool/x"), Error::NotFound { reason, .. } if reason.ends_with("not a directory"))
        );
    }
}
