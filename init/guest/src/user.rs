//! Whom a process runs as: `docker run -u` against the container's own /etc/passwd and /etc/group.
//!
//! The rules are those of docker's runtime: a number is always an id and need not be in any file; a name must be; the group
//! given after a colon replaces the user's own and then there are no supplementary groups from the file.

use hearth_guest_protocol::Error;

/// Largest user or group id that docker accepts.
const ID_MAX: i64 = i32::MAX as i64;

/// Ids of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; the first is `gid`.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

#[derive(Debug, PartialEq)]
struct User<'a> {
    name: &'a str,
    uid: i64,
    gid: i64,
    home: &'a str,
}

#[derive(Debug, PartialEq)]
struct Group<'a> {
    name: &'a str,
    gid: i64,
    members: &'a str,
}

/// Finds out what `user` and the `further` groups mean, given the two files' contents (empty where there is none).
pub fn resolve(
    user: &str,
    further: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, Error> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    let user_number = user_part.parse::<i64>().ok();
    let mut identity = Identity {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: "/".to_owned(),
    };

    let found = users(passwd).find(|entry| match (user_part, user_number) {
        ("", _) => entry.uid == 0,
        (_, Some(number)) => entry.uid == number,
        (name, None) => entry.name == name,
    });
    match (&found, user_number) {
        (Some(entry), _) => {
            identity.uid = id(entry.uid)?;
            identity.gid = id(entry.gid)?;
            if !entry.home.is_empty() {
                identity.home = entry.home.to_owned();
            }
        }
        (None, Some(number)) => identity.uid = id(number)?,
        (None, None) if user_part.is_empty() => {}
        (None, None) => return Err(no_such("user", user_part, "passwd")),
    }

    let mut supplementary = Vec::new();
    if !group_part.is_empty() {
        let number = group_part.parse::<i64>().ok();
        let entry = groups(group).find(|entry| match number {
            Some(number) => entry.gid == number,
            None => entry.name == group_part,
        });
        identity.gid = match (entry, number) {
            (Some(entry), _) => id(entry.gid)?,
            (None, Some(number)) => id(number)?,
            (None, None) => return Err(no_such("group", group_part, "group")),
        };
    } else if let Some(user) = found {
        for entry in groups(group) {
            if entry.members.split(',').any(|member| member == user.name) {
                supplementary.push(id(entry.gid)?);
            }
        }
    }
    for name in further {
        let number = name.parse::<i64>().ok();
        let entry = groups(group).find(|entry| entry.name == *name || Some(entry.gid) == number);
        supplementary.push(match (entry, number) {
            (Some(entry), _) => id(entry.gid)?,
            (None, Some(number)) => id(number)?,
            (None, None) => return Err(no_such("group", name, "group")),
        });
    }
    identity.groups.push(identity.gid);
    for gid in supplementary {
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

fn no_such(kind: &str, name: &str, file: &str) -> Error {
    Error::NoSuchUser {
        kind: kind.to_owned(),
        name: name.to_owned(),
        file: file.to_owned(),
    }
}

fn id(number: i64) -> Result<u32, Error> {
    u32::try_from(number)
        .ok()
        .filter(|_| number <= ID_MAX)
        .ok_or_else(|| Error::Invalid(format!("uids and gids must be in range 0-{ID_MAX}")))
}

/// passwd(5). A field that is missing is empty, a number that is none is 0: that is how docker's runtime reads it.
fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    lines(passwd).map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or("");
        let mut fields = fields.skip(1);
        User {
            name,
            uid: number(fields.next()),
            gid: number(fields.next()),
            home: fields.nth(1).unwrap_or(""),
        }
    })
}

/// group(5), read as generously as [`users`].
fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    lines(group).map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or("");
        let mut fields = fields.skip(1);
        Group {
            name,
            gid: number(fields.next()),
            members: fields.next().unwrap_or(""),
        }
    })
}

fn lines(file: &str) -> impl Iterator<Item = &str> {
    file.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn number(field: Option<&str>) -> i64 {
    field.and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\npostgres:x:999:998:PostgreSQL:/var/lib/postgresql:/bin/sh\n\
        nohome:x:7:7::\nshort:x:8\n";
    const GROUP: &str =
        "root:x:0:\nadm:x:4:postgres,root\nssl-cert:x:104:postgres\npostgres:x:998:\nseven:x:7:\n";

    fn who(user: &str) -> Result<Identity, Error> {
        resolve(user, &[], PASSWD, GROUP)
    }

    fn identity(uid: u32, groups: &[u32], home: &str) -> Identity {
        Identity {
            uid,
            gid: groups[0],
            groups: groups.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn nobody_named_is_root_with_roots_groups() {
        assert_eq!(who("").unwrap(), identity(0, &[0, 4], "/root"));
        assert_eq!(resolve("", &[], "", "").unwrap(), identity(0, &[0], "/"));
    }

    #[test]
    fn a_name_brings_its_group_its_supplementary_groups_and_its_home() {
        assert_eq!(
            who("postgres").unwrap(),
            identity(999, &[998, 4, 104], "/var/lib/postgresql")
        );
    }

    #[test]
    fn a_number_is_an_id_and_brings_what_its_entry_has() {
        assert_eq!(who("999").unwrap(), who("postgres").unwrap());
        assert_eq!(who("12345").unwrap(), identity(12345, &[0], "/"));
    }

    #[test]
    fn a_group_after_the_colon_replaces_all_others() {
        assert_eq!(
            who("postgres:adm").unwrap(),
            identity(999, &[4], "/var/lib/postgresql")
        );
        assert_eq!(who("5:77").unwrap(), identity(5, &[77], "/"));
        assert_eq!(who(":adm").unwrap(), identity(0, &[4], "/root"));
    }

    #[test]
    fn further_groups_are_added_by_name_or_number_once() {
        let further = ["ssl-cert".to_owned(), "4242".to_owned(), "998".to_owned()];
        let who = resolve("postgres", &further, PASSWD, GROUP).unwrap();
        assert_eq!(who.groups, [998, 4, 104, 4242]);
    }

    #[test]
    fn a_name_that_is_in_no_file_is_an_error_in_dockers_words() {
        assert_eq!(
            who("mallory").unwrap_err().to_string(),
            "unable to find user mallory: no matching entries in passwd file"
        );
        assert_eq!(
            who("root:wheel").unwrap_err().to_string(),
            "unable to find group wheel: no matching entries in group file"
        );
    }

    #[test]
    fn ids_out_of_range_are_refused() {
        assert!(who("4294967296").is_err());
        assert!(who("-1").is_err());
        assert!(who("0:2147483648").is_err());
        assert_eq!(who("2147483647").unwrap().uid, 2_147_483_647);
    }

    #[test]
    fn short_lines_have_empty_fields() {
        assert_eq!(who("short").unwrap(), identity(8, &[0], "/"));
        assert_eq!(who("nohome").unwrap(), identity(7, &[7], "/"));
    }

    proptest! {
        #[test]
        fn any_files_give_an_identity_or_an_error(user in ".{0,20}", passwd in "[a-z0-9:\\n,-]{0,200}", group in "[a-z0-9:\\n,-]{0,200}") {
            let _ = resolve(&user, &["g".to_owned()], &passwd, &group);
        }
    }
}
