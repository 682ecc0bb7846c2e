//! The images that the tests run: made here, from the distribution's packages, without a daemon.
//!
//! A recipe names packages and says what to keep of them; the resulting root file system is one layer, kept in the
//! user's cache under a hash of the recipe and the packages' versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::archive::Image;
use crate::layer::Layer;
use crate::packages::{self, Package};

/// Bumped when the code below makes something else of the same recipe.
const RECIPE_VERSION: u32 = 1;

/// How an image is made of packages.
struct Recipe {
    /// What apt resolves.
    package: &'static str,
    /// Prefixes of the names of those packages that are taken whole.
    whole: &'static [&'static str],
    /// Paths that are dropped again, folders included.
    drop: &'static [&'static str],
    /// What is added to the packages' files, and owns what.
    finish: fn(&Path, Layer) -> Result<Layer>,
    /// The image's `config` object.
    config: fn(&Path) -> Value,
}

/// Dropped from every image: nobody reads them in a test.
const UNREAD: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
];

/// The accounts in every image; `app` is the one to switch to.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    app:x:1000:1000:an ordinary user:/home/app:/bin/sh\n\
    postgres:x:70:70:PostgreSQL:/var/lib/postgresql:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str =
    "root:x:0:\napp:x:1000:\nwheel:x:10:app\nstaff:x:50:\npostgres:x:70:\nnogroup:x:65534:\n";

/// busybox's applets that get a link each, in `/bin`.
const APPLETS: &[&str] = &[
    "arp",
    "awk",
    "base64",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hexdump",
    "hostname",
    "httpd",
    "id",
    "ifconfig",
    "ip",
    "kill",
    "killall",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "more",
    "mount",
    "mv",
    "nc",
    "netstat",
    "nproc",
    "nslookup",
    "od",
    "ping",
    "pgrep",
    "pidof",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "route",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "su",
    "sync",
    "tail",
    "tar",
    "tee",
    "telnet",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "tty",
    "udhcpc",
    "umount",
    "uname",
    "uniq",
    "unlink",
    "uptime",
    "vi",
    "watch",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "yes",
    "zcat",
];

const BUSYBOX: Recipe = Recipe {
    package: "busybox-static",
    whole: &["busybox-static"],
    drop: &["usr/share"],
    finish: |_, layer| Ok(layer),
    config: |_| json!({ "Cmd": ["sh"] }),
};

const NGINX: Recipe = Recipe {
    package: "nginx",
    whole: &["nginx", "nginx-common", "busybox-static"],
    drop: &[
        "etc/init.d",
        "etc/logrotate.d",
        "etc/default",
        "etc/ufw",
        "etc/nginx",
        "lib/systemd",
        "var/www",
        "var/log",
    ],
    finish: |_, layer| {
        Ok(layer
            .dir("etc/nginx", 0o755)
            .file("etc/nginx/nginx.conf", 0o644, NGINX_CONF.as_bytes())
            .dir("var/www", 0o755)
            .file("var/www/index.html", 0o644, b"<h1>warm</h1>\n")
            .dir("var/log/nginx", 0o755)
            .symlink("var/log/nginx/error.log", "/dev/stderr"))
    },
    config: |_| {
        json!({
            "Entrypoint": ["/usr/sbin/nginx"],
            "Cmd": ["-g", "daemon off;"],
            "ExposedPorts": { "80/tcp": {} },
            "StopSignal": "SIGQUIT",
        })
    },
};

/// Logs to the container's own output, as the well-known nginx images do.
const NGINX_CONF: &str = "user nobody nogroup;\nworker_processes 1;\nerror_log /dev/stderr info;\npid /run/nginx.pid;\n\
    events { worker_connections 64; }\n\
    http {\n  access_log /dev/stdout;\n  server {\n    listen 80;\n    root /var/www;\n    index index.html;\n  }\n}\n";

const REDIS: Recipe = Recipe {
    package: "redis-server",
    whole: &["redis-server", "redis-tools", "busybox-static"],
    drop: &[
        "etc/init.d",
        "etc/logrotate.d",
        "etc/default",
        "etc/redis",
        "lib/systemd",
        "usr/share",
    ],
    finish: |_, layer| Ok(layer.owned_dir("data", 0o755, 1000, 1000)),
    config: |_| {
        json!({
            "Entrypoint": ["/usr/bin/redis-server", "--protected-mode", "no"],
            "ExposedPorts": { "6379/tcp": {} },
            "WorkingDir": "/data",
            "User": "app",
        })
    },
};

const POSTGRESQL: Recipe = Recipe {
    package: "postgresql",
    whole: &[
        "postgresql-1",
        "postgresql-client-1",
        "tzdata",
        "busybox-static",
    ],
    drop: &[
        "usr/share/zoneinfo/posix",
        "usr/share/zoneinfo/right",
        "usr/share/zoneinfo/America",
        "usr/share/zoneinfo/Africa",
        "usr/share/zoneinfo/Asia",
        "usr/share/zoneinfo/Europe",
        "usr/share/zoneinfo/Pacific",
        "usr/share/postgresql-common",
    ],
    finish: |root, layer| {
        let bin = postgresql_bin(root);
        let script = format!(
            "#!/bin/sh\nset -e\n[ -s \"$PGDATA/PG_VERSION\" ] || \
             {bin}/initdb --auth=trust --encoding=UTF8 --locale=C --username=postgres\n\
             [ \"$1\" ] && exec \"$@\"\n\
             exec {bin}/postgres -c listen_addresses='*' -c unix_socket_directories=/tmp\n"
        );
        Ok(layer
            .file("entrypoint", 0o755, script.as_bytes())
            .owned_dir("var/lib/postgresql", 0o755, 70, 70)
            .owned_dir("var/lib/postgresql/data", 0o700, 70, 70))
    },
    config: |root| {
        json!({
            "Entrypoint": ["/entrypoint"],
            "Env": [
                format!("PATH=/bin:/usr/bin:{}", postgresql_bin(root)),
                "PGDATA=/var/lib/postgresql/data",
                "PGHOST=/tmp",
            ],
            "ExposedPorts": { "5432/tcp": {} },
            "StopSignal": "SIGINT",
            "User": "postgres",
        })
    },
};

/// `/usr/lib/postgresql/<major>/bin`, with the major version that the release has.
fn postgresql_bin(root: &Path) -> String {
    let major = root
        .join("usr/lib/postgresql")
        .read_dir()
        .ok()
        .and_then(|mut entries| entries.next()?.ok())
        .map_or_else(
            || "unknown".into(),
            |entry| entry.file_name().to_string_lossy().into_owned(),
        );
    format!("/usr/lib/postgresql/{major}/bin")
}

const PYTHON: Recipe = Recipe {
    package: "python3",
    whole: &["python3", "libpython3", "media-types", "busybox-static"],
    drop: &[
        "usr/share/applications",
        "usr/share/pixmaps",
        "usr/share/binfmts",
        "usr/share/python3",
        "usr/lib/python3.11/lib2to3",
        "usr/lib/python3.11/pydoc_data",
        "usr/lib/python3.11/distutils",
        "usr/lib/valgrind",
        "usr/share/gdb",
    ],
    finish: |_, layer| Ok(layer),
    config: |_| json!({ "Cmd": ["python3"] }),
};

/// The distribution's static busybox, with `/bin/sh` and the users `app` and `nobody`.
pub fn busybox() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| made("busybox", &BUSYBOX))
}

/// nginx, serving one page on port 80.
pub fn nginx() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| made("nginx", &NGINX))
}

/// redis, with `redis-benchmark` and `redis-cli`.
pub fn redis() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| made("redis", &REDIS))
}

/// PostgreSQL, which initialises itself on its first start, and `psql`.
pub fn postgresql() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| made("postgresql", &POSTGRESQL))
}

/// Python with its standard library.
pub fn python() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| made("python", &PYTHON))
}

fn made(name: &str, recipe: &Recipe) -> Image {
    make(name, recipe).unwrap_or_else(|error| panic!("can't make the test image {name}: {error:#}"))
}

fn make(name: &str, recipe: &Recipe) -> Result<Image> {
    let cache = crate::cache_folder("test-images")?;
    let mut packages = packages::resolve(recipe.package)?;
    if recipe.package != BUSYBOX.package {
        packages.extend(packages::resolve(BUSYBOX.package)?);
        packages.sort();
        packages.dedup();
    }
    let (whole, others): (Vec<Package>, Vec<Package>) = packages.into_iter().partition(|package| {
        recipe
            .whole
            .iter()
            .any(|prefix| package.name.starts_with(prefix))
    });
    let libraries: Vec<Package> = others
        .into_iter()
        .filter(|package| package.name.starts_with("lib") || package.name.starts_with("zlib"))
        .filter(|package| {
            !NEVER_LIBRARIES
                .iter()
                .any(|prefix| package.name.starts_with(prefix))
        })
        .collect();

    let folder = cache.join(format!("{name}-{}", key(recipe, &whole, &libraries)));
    let (layer_file, config_file) = (folder.join("layer.tar"), folder.join("config.json"));
    if !config_file.exists() {
        // Made beside its place and renamed, since test binaries may run at the same time.
        let scratch = tempfile::tempdir_in(&cache)?;
        let root = scratch.path().join("root");
        let library_root = scratch.path().join("libraries");
        let debs = cache.join("debs");
        packages::unpack(&whole, &debs, &root)?;
        packages::unpack(&libraries, &debs, &library_root)?;
        for dropped in UNREAD.iter().chain(recipe.drop) {
            remove(&root.join(dropped))?;
        }
        remove_just_in_time_compiler(&root)?;
        packages::add_needed_libraries(&root, &library_root)?;
        let busybox = root.join("bin/busybox");
        if !busybox.exists() {
            // Where /bin is a link into /usr the package has its file there.
            fs::create_dir_all(root.join("bin"))?;
            fs::rename(root.join("usr/bin/busybox"), &busybox)?;
        }
        // Each path is in the layer once: what is written below isn't taken from a package too.
        for ours in [
            "root",
            "home",
            "tmp",
            "run",
            "proc",
            "sys",
            "dev",
            "etc/passwd",
            "etc/group",
        ] {
            remove(&root.join(ours))?;
        }
        let layer = accounts_and_applets(Layer::new().tree(&root)?);
        let layer = (recipe.finish)(&root, layer)?.finish();
        let made = scratch.path().join("made");
        fs::create_dir(&made)?;
        fs::write(made.join("layer.tar"), layer)?;
        fs::write(made.join("config.json"), (recipe.config)(&root).to_string())?;
        if let Err(error) = fs::rename(&made, &folder)
            && !config_file.exists()
        {
            return Err(error).with_context(|| format!("renaming to {}", folder.display()));
        }
    }
    let layer =
        fs::read(&layer_file).with_context(|| format!("reading {}", layer_file.display()))?;
    let config = serde_json::from_slice(&fs::read(&config_file)?)?;
    Ok(Image::new(config, vec![layer]))
}

/// Large, and only for what the recipes drop.
const NEVER_LIBRARIES: &[&str] = &["libllvm", "libz3", "libperl", "libjson-perl", "libpython3"];

fn remove_just_in_time_compiler(root: &Path) -> Result<()> {
    for file in packages::files_below(root)? {
        let name = file.to_string_lossy();
        if name.contains("llvmjit") || name.ends_with(".bc") {
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

fn accounts_and_applets(mut layer: Layer) -> Layer {
    layer = layer
        .dir("root", 0o700)
        .owned_dir("home/app", 0o755, 1000, 1000)
        .dir("tmp", 0o1777)
        .dir("run", 0o755)
        .dir("proc", 0o555)
        .dir("sys", 0o555)
        .dir("dev", 0o755)
        .file("etc/passwd", 0o644, PASSWD.as_bytes())
        .file("etc/group", 0o644, GROUP.as_bytes());
    for applet in APPLETS {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.with_context(|| format!("removing {}", path.display()))
}

/// A digest of everything that decides the image's content.
fn key(recipe: &Recipe, whole: &[Package], libraries: &[Package]) -> String {
    let nowhere = PathBuf::from("/nonexistent");
    let extras = (recipe.finish)(&nowhere, accounts_and_applets(Layer::new()))
        .map(Layer::finish)
        .unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(format!(
        "{RECIPE_VERSION} {whole:?} {libraries:?} {:?} {UNREAD:?}",
        recipe.drop
    ));
    hash.update((recipe.config)(&nowhere).to_string());
    hash.update(extras);
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_version_is_another_image() {
        let package = |version: &str| Package {
            name: "busybox-static".into(),
            version: version.into(),
        };
        assert_ne!(
            key(&BUSYBOX, &[package("1")], &[]),
            key(&BUSYBOX, &[package("2")], &[])
        );
    }
}
