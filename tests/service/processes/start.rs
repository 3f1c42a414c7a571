//! What is wrong with a setting is said at once, and nothing is left behind.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use sqlx::{Executor, PgPool};

use super::{Client, Process, free_address, program, url};
use crate::harness::tiny;

/// Says within two seconds what is wrong; the rest is for the process itself on a busy machine.
const SOON: Duration = Duration::from_secs(3);

/// Runs a command that cannot start, and returns what it says.
fn refusal(mut command: Command) -> String {
    let began = Instant::now();
    let Output { status, stderr, .. } = command.output().unwrap();
    let took = began.elapsed();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(took < SOON, "{took:?}: {said}");
    let error = said.split_once("error: ").map(|(_, error)| error.trim().to_owned());
    error.unwrap_or_else(|| panic!("no error: {said}"))
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

#[test]
fn a_wrong_setting_is_told_with_its_name_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken_at = taken.local_addr().unwrap().to_string();
    let no_tokenizer = dir.path().join("no_tokenizer");
    copy(&tiny(), &no_tokenizer);
    std::fs::remove_dir_all(no_tokenizer.join("tokenizer")).unwrap();
    let cut = dir.path().join("cut");
    copy(&tiny(), &cut);
    std::fs::write(cut.join("unet/diffusion_pytorch_model.safetensors"), "12345678").unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();

    let data = path("data");
    let made_before: usize = std::fs::read_dir(dir.path()).unwrap().count();
    for (args, named) in [
        (vec!["--listen", &taken_at], vec!["--listen", "in use", "another address"]),
        (vec!["--base-model", "/nowhere"], vec!["--base-model /nowhere", "unet"]),
        (vec!["--base-model", &path("no_tokenizer")], vec!["--base-model", "tokenizer"]),
        (vec!["--base-model", &path("cut")], vec!["--base-model", "safetensors"]),
        (vec!["--evaluator", "/nowhere"], vec!["--evaluator /nowhere"]),
        (vec!["--evaluator", &path("file")], vec!["--evaluator"]),
        (vec!["--device", "tpu"], vec!["--device", "tpu", "cpu"]),
        (vec!["--object-store", "s4://bucket"], vec!["VSTAR_OBJECT_STORE s4://bucket"]),
        (vec!["--object-store", &path("file/objects")], vec!["VSTAR_OBJECT_STORE", "is a file"]),
        (vec!["--database-url", "mysql://host/db"], vec!["DATABASE_URL", "postgres://user"]),
        (
            vec!["--database-url", "postgres://me:secret@127.0.0.1:1/db"],
            vec!["DATABASE_URL", "127.0.0.1:1", "nothing listens"],
        ),
        (
            vec!["--database-url", "postgres://me@no-such-host.invalid/db"],
            vec!["DATABASE_URL", "no-such-host.invalid"],
        ),
        (vec!["--data-dir", &path("file/data")], vec!["--data-dir", "is a file"]),
        (vec!["--pg-bin", &path("cut")], vec!["--pg-bin", "initdb", "DATABASE_URL"]),
        (vec!["--drain-grace", "30"], vec!["--drain-grace 30", "--shutdown-timeout", "25"]),
    ] {
        let mut command = program(&["serve", "--data-dir", &data, "--listen", "127.0.0.1:0"]);
        // The last of two wins only if the option may come twice: so it is given once.
        if args[0] == "--data-dir" || args[0] == "--listen" {
            command = program(&["serve"]);
            let (other, value) = match args[0] {
                "--data-dir" => ("--listen", "127.0.0.1:0"),
                _ => ("--data-dir", data.as_str()),
            };
            command.args([other, value]);
        }
        command.args(&args);

        let said = refusal(command);

        assert!(named.iter().all(|name| said.contains(name)), "{args:?}: {said}");
        assert!(!said.contains("secret") && !said.contains("pool timed out"), "{said}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), made_before, "{args:?}");
    }
}

#[test]
fn an_object_store_that_cannot_be_reached_is_told_with_its_cause() {
    let store = |endpoint: &str| {
        let mut command = program(&["serve", "--object-store", "s3://bucket/prefix"]);
        command.env("AWS_ENDPOINT", endpoint).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.args(["--listen", "127.0.0.1:0"]);
        command
    };
    // Takes connections and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());

    let refused = refusal(store("http://127.0.0.1:1"));
    let silent = refusal(store(&silent));

    assert!(refused.contains("VSTAR_OBJECT_STORE s3://bucket/prefix"), "{refused}");
    assert!(refused.contains("127.0.0.1:1") && refused.contains("refused"), "{refused}");
    assert!(silent.contains("VSTAR_OBJECT_STORE") && silent.contains("within 2 s"), "{silent}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let mut command = program(&["work", "--base-model", "/nowhere", "--device", "tpu"]);
    command.args(["--database-url", "postgres://me@127.0.0.1:1/db"]);

    let said = refusal(command);

    for name in ["4 settings", "--base-model", "--device", "DATABASE_URL", "VSTAR_OBJECT_STORE"] {
        assert!(said.contains(name), "{name}: {said}");
    }
}

#[sqlx::test(migrations = false)]
async fn a_database_that_refuses_says_why(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let address = url(&db);
    let of = |address: &str| {
        let mut command = program(&["serve", "--database-url", address, "--listen", "127.0.0.1:0"]);
        command.env("VSTAR_OBJECT_STORE", objects.path());
        command
    };
    let name: String =
        sqlx::query_scalar("select current_database()").fetch_one(&db).await.unwrap();
    // A user with a password, for whom alone the server asks for it.
    let user = format!("locked_{}", std::process::id());
    for statement in [
        format!("create role {user} login password 'right'"),
        format!(
            "do $$ begin execute format('copy (select unnest(array[%L, %L])) to %L', 'local all {user} scram-sha-256', \
             'local all all trust', current_setting('hba_file')); end $$"
        ),
        "select pg_reload_conf()".to_owned(),
    ] {
        db.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
    let as_user = |password: &str| {
        address.replacen("postgres://postgres", &format!("postgres://{user}:{password}"), 1)
    };
    tokio::time::sleep(Duration::from_millis(500)).await; // until the server has read its file again

    let no_database = refusal(of(&address.replace(&name, "no_such_database")));
    let no_user =
        refusal(of(&address.replacen("postgres://postgres", "postgres://nobody_here", 1)));
    let password = refusal(of(&as_user("wrong")));

    assert!(no_database.contains("createdb no_such_database"), "{no_database}");
    assert!(no_user.contains("nobody_here"), "{no_user}");
    assert!(password.contains("refuses the password") && !password.contains("wrong"), "{password}");
}

fn migrate(db: &PgPool) -> Output {
    program(&["migrate"]).env("DATABASE_URL", url(db)).output().unwrap()
}

#[sqlx::test(migrations = false)]
async fn a_migration_says_what_it_did(db: PgPool) {
    let first = migrate(&db);
    let again = migrate(&db);

    let (count, newest): (i64, i64) =
        sqlx::query_as("select count(*), max(version) from _sqlx_migrations")
            .fetch_one(&db)
            .await
            .unwrap();
    let first = String::from_utf8(first.stdout).unwrap();
    let lines: Vec<&str> = first.lines().collect();
    assert_eq!((lines.len() as i64, lines[0]), (count, "applied 0001 catalog"), "{first}");
    let again = String::from_utf8(again.stdout).unwrap();
    assert_eq!(again.trim(), format!("up to date, at {newest:04}"));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_database_of_a_newer_version_is_refused_by_name(db: PgPool) {
    let newer =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9000, 'of the future', true, '', 0)";
    sqlx::query(newer).execute(&db).await.unwrap();

    let refused = migrate(&db);

    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success());
    assert!(said.contains("newer version of vstar") && said.contains("9000"), "{said}");
}

#[sqlx::test(migrations = false)]
async fn two_processes_may_start_on_an_empty_database_at_once(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let addresses = [free_address(), free_address(), free_address()];

    let mut processes = addresses.map(|address| {
        let listen = address.to_string();
        Process::start("serve", &db, &objects, &["--no-worker", "--listen", &listen])
    });

    for address in addresses {
        Client::of(address).is_ready().await;
    }
    let twice: i64 = sqlx::query_scalar(
        "select count(*) from (select version from _sqlx_migrations group by version having count(*) > 1) as twice",
    )
    .fetch_one(&db)
    .await
    .unwrap();
    assert_eq!(twice, 0);
    let migrated = processes.iter().filter(|process| process.log().contains("applied")).count();
    assert_eq!(migrated, 1, "one of them did it");
    for process in &mut processes {
        assert!(process.end().await, "{}", process.log());
    }
}
