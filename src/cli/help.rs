//! `vstar --help`: what asks a service stands apart from what runs one.

use clap::Command;

/// Commands by what they are for, in the order in which they are shown.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "Concepts and images, on any service (--server, VSTAR_URL, VSTAR_API_KEY)",
        &[
            "concepts", "train", "sample", "merge", "check", "evaluate", "replay", "watch",
            "cancel", "queue", "deltas", "keys", "webhooks",
        ],
    ),
    ("Running a service", &["serve", "work", "migrate", "gc", "admin-key", "doctor", "openapi"]),
    ("Measurements, each on a service of its own", &["demo", "tables", "merging-sheet", "bench"]),
    ("The program", &["completions", "man", "help"]),
];

/// What a script reads off the exit status, in short; the whole table is `exit::STATUSES`.
const STATUS: &str = "Exit status: 0 done, 2 usage, 3 refused as it is, 4 not found, 5 no access, 6 quota, 7 job failed, \
                      8 job canceled, 9 timeout, 130 Ctrl-C, 1 anything else.";

/// The same command line, with its commands in groups.
pub fn grouped(program: Command) -> Command {
    let width =
        GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or(0);
    let mut text = "{about}\n\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        text += &format!("\n\x1b[1m\x1b[4m{title}:\x1b[0m\n");
        for name in names {
            let about = program.find_subcommand(name).and_then(Command::get_about);
            let about = match about {
                Some(about) => about.to_string(),
                None => "Explains a command".to_owned(),
            };
            text += &format!("  \x1b[1m{name:width$}\x1b[0m  {about}\n");
        }
    }
    text += "\n\x1b[1m\x1b[4mOptions:\x1b[0m\n{options}{after-help}\n";
    program.help_template(text).after_help(STATUS)
}

/// Whether a command has a place in the help.
#[cfg(test)]
fn is_grouped(name: &str) -> bool {
    GROUPS.iter().any(|(_, names)| names.contains(&name))
}

#[cfg(test)]
mod tests {
    use clap::Subcommand;

    use super::*;
    use crate::cli::ClientCommand;

    #[test]
    fn every_command_of_a_client_has_its_place() {
        let program = ClientCommand::augment_subcommands(Command::new("vstar"));
        for command in program.get_subcommands() {
            assert!(is_grouped(command.get_name()), "{}", command.get_name());
        }
    }
}
