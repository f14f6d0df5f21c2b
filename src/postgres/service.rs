//! Service files: named sets of connection parameters (`pg_service.conf`).

use std::fs;
use std::path::{Path, PathBuf};

use super::parameters::Parameters;
use crate::error::{Context, Error, Result};

/// Where packagers put the system-wide file when `PGSYSCONFDIR` doesn't say: Debian's and Red Hat's places.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql"];

/// Fills `parameters` from the service `name`, leaving what the connection string has set.
///
/// The user's file is searched first, then the system's; the first that has the service gives all of it.
pub(super) fn apply(
    name: &str,
    home: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
    parameters: &mut Parameters,
) -> Result<()> {
    let mut searched = Vec::new();
    let named = match parameters.get("servicefile") {
        Some(file) => Some(PathBuf::from(file)),
        None => env("PGSERVICEFILE").filter(|file| !file.is_empty()).map(PathBuf::from),
    };
    // A file that was named must be there; the usual ones may be missing.
    if let Some(file) = &named {
        let text = fs::read_to_string(file).or_refused(|| format!("read service file {}", file.display()))?;
        if apply_text(name, &text, file, parameters)? {
            return Ok(());
        }
        searched.push(file.clone());
    }
    let own = home.filter(|_| named.is_none()).map(|home| home.join(".pg_service.conf"));
    let system = match env("PGSYSCONFDIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => vec![PathBuf::from(directory)],
        None => SYSTEM_DIRECTORIES.map(PathBuf::from).to_vec(),
    };
    for file in own.into_iter().chain(system.into_iter().map(|directory| directory.join("pg_service.conf"))) {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).or_refused(|| format!("read service file {}", file.display())),
        };
        if apply_text(name, &text, &file, parameters)? {
            return Ok(());
        }
        searched.push(file);
    }
    let searched: Vec<String> = searched.iter().map(|file| file.display().to_string()).collect();
    let places = if searched.is_empty() { "no service file found".to_owned() } else { searched.join(", ") };
    Err(Error::refused(format!("service `{name}` is not defined ({places})"))
        .hint(format!("add a section [{name}] to ~/.pg_service.conf, or name the file by PGSERVICEFILE")))
}

/// Takes the section `[name]` of one file; false if there's none.
fn apply_text(name: &str, text: &str, file: &Path, parameters: &mut Parameters) -> Result<bool> {
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let place = || format!("service file {}, line {}", file.display(), index + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if inside {
                return Ok(true);
            }
            inside = section == name;
            continue;
        }
        if !inside {
            continue;
        }
        if line.starts_with("ldap") {
            return Err(Error::refused(format!("{}: LDAP look-up is not supported", place())));
        }
        let (key, value) =
            line.split_once('=').ok_or_else(|| Error::refused(format!("{}: a line without `=`", place())))?;
        let key = key.trim_end();
        if matches!(key, "service" | "servicefile") {
            return Err(Error::refused(format!("{}: a service can't name another service", place())));
        }
        parameters.set_default(key, value.trim_start().to_owned(), &place())?;
    }
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n[other]\nhost=no\n\n\
        [mine]\n host=h1 \nhost=h2\ndbname = d = e\n#user=x\n\
        [after]\nuser=no\n";

    fn no_env(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn only_the_named_section_counts_and_its_first_value_wins() {
        let mut parameters = Parameters::default();
        assert!(apply_text("mine", TEXT, Path::new("f"), &mut parameters).unwrap());
        assert_eq!(parameters.get("host"), Some("h1"));
        assert_eq!(parameters.get("dbname"), Some("d = e"));
        assert_eq!(parameters.get("user"), None);
        assert!(!apply_text("mine2", TEXT, Path::new("f"), &mut parameters).unwrap());
    }

    #[test]
    fn the_users_file_comes_before_the_systems() {
        let home = tempfile::tempdir().unwrap();
        let system = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".pg_service.conf"), "[a]\nhost=home\n").unwrap();
        fs::write(system.path().join("pg_service.conf"), "[a]\nhost=system\n[b]\nhost=only\n").unwrap();
        let env = |name: &str| (name == "PGSYSCONFDIR").then(|| system.path().display().to_string());
        for (service, host) in [("a", "home"), ("b", "only")] {
            let mut parameters = Parameters::default();
            apply(service, Some(home.path()), &env, &mut parameters).unwrap();
            assert_eq!(parameters.get("host"), Some(host));
        }
        let error = apply("c", Some(home.path()), &env, &mut Parameters::default()).unwrap_err().to_string();
        assert!(
            error.starts_with("service `c` is not defined (") && error.contains(".pg_service.conf, "),
            "{error}"
        );
    }

    #[test]
    fn mistakes_name_file_and_line() {
        let refusal = |text: &str| {
            apply_text("a", text, Path::new("s.conf"), &mut Parameters::default()).unwrap_err().to_string()
        };
        assert_eq!(refusal("[a]\nhost"), "service file s.conf, line 2: a line without `=`");
        assert_eq!(
            refusal("[a]\nservice=b"),
            "service file s.conf, line 2: a service can't name another service"
        );
        assert!(
            refusal("[a]\nhots=b")
                .contains("unknown connection parameter `hots` (from service file s.conf, line 2)")
        );
    }

    #[test]
    fn a_named_file_must_be_there() {
        let mut parameters = Parameters::default();
        parameters.set("servicefile", "/nowhere/s.conf".to_owned(), "url").unwrap();
        let error = apply("a", None, &no_env, &mut parameters).unwrap_err().to_string();
        assert!(error.starts_with("read service file /nowhere/s.conf: "), "{error}");
    }
}
