use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use super::*;

/// A script, run with `arguments`; what it wrote, and how it ended.
async fn run(
    script: &str,
    change: impl FnOnce(&mut Invocation),
    stop: &Stop,
) -> (Finish, Vec<String>) {
    let mut invocation = Invocation {
        path: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), script.to_owned(), "sh".to_owned()],
        pass_environment: Vec::new(),
        environment: Vec::new(),
        input: String::new(),
        timeout: Duration::from_secs(60),
        after_stop: Duration::from_secs(60),
        time_to_end: TIME_TO_END,
    };
    change(&mut invocation);
    let lines = Mutex::new(Vec::new());
    let told = |output: Output, line: &str| {
        lines
            .lock()
            .unwrap()
            .push(format!("{}: {line}", output.name()));
    };
    let finish = Processes.run(&invocation, stop, &told).await.unwrap();
    (finish, lines.into_inner().unwrap())
}

/// Whether a process is there, and no zombie.
fn alive(pid: &str) -> bool {
    std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until a process is gone; a test that hangs here is one that fails.
async fn gone(pid: &str) {
    while alive(pid) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_program_gets_its_input_arguments_and_environment_and_nothing_else() {
    // The shell adds PWD and its like by itself.
    let own = ["PWD", "OLDPWD", "SHLVL", "_"];
    // Whatever the test itself was given.
    let mut given = std::env::vars().filter(|(name, value)| {
        let mut set = own.iter().chain(&["LANG", "PATH"]);
        name.starts_with(|it: char| it.is_ascii_uppercase())
            && !value.contains('\n')
            && !set.any(|it| it == name)
    });
    let passed = given.next().map(|(name, _)| name);
    let script = r#"cat; echo "$# $1"; env | cut -d= -f1 | sort; pwd; echo bad >&2; exit 3"#;
    let (finish, mut lines) = run(
        script,
        |it| {
            it.arguments.push("two words; $HOME".to_owned());
            it.input = "the event\n".to_owned();
            it.pass_environment = vec!["NOT_SET".to_owned()];
            it.pass_environment.extend(passed.clone());
            it.environment = vec![("STAGESWEEP_OUTCOME", "cleaned".to_owned())];
        },
        &Stop::default(),
    )
    .await;
    assert_eq!(finish, Finish::Exited(3));
    // The two outputs are read side by side.
    lines.sort_by_key(|line| line.starts_with("stderr"));
    let lines: Vec<&str> = lines
        .iter()
        .map(|line| line.split_once(": ").unwrap().1)
        .collect();
    let lines: Vec<&str> = lines
        .into_iter()
        .filter(|line| !own.contains(line))
        .collect();
    let mut names = vec!["LANG", "PATH", "STAGESWEEP_OUTCOME"];
    names.extend(passed.as_deref());
    names.sort_unstable();
    let mut expected = vec!["the event", "1 two words; $HOME"];
    expected.extend(names);
    expected.extend(["/", "bad"]);
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_program_that_neither_reads_nor_stops_writing_blocks_nothing() {
    let (finish, lines) = run(
        "i=0; while [ $i -lt 30000 ]; do echo a line of some length; i=$((i+1)); done",
        |it| it.input = "x".repeat(1024 * 1024),
        &Stop::default(),
    )
    .await;
    assert_eq!(finish, Finish::Exited(0));
    assert_eq!(lines.len(), MAX_LINES + 1);
    assert_eq!(lines.last().unwrap(), "stdout: [29000 more lines]");
}

#[tokio::test]
async fn a_timeout_ends_the_whole_group() {
    // The child ignores what the parent heeds.
    let script = r#"sh -c 'trap "" TERM; echo $$; while :; do sleep 60; done' & echo $$; wait"#;
    let (finish, lines) = run(
        script,
        |it| it.timeout = Duration::from_millis(300),
        &Stop::default(),
    )
    .await;
    assert_eq!(finish, Finish::TimedOut);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        gone(line.strip_prefix("stdout: ").unwrap()).await;
    }
}

#[tokio::test]
async fn what_a_program_started_has_its_time_to_end_too() {
    let directory = tempfile::tempdir().unwrap();
    let (ready, done) = (
        directory.path().join("ready"),
        directory.path().join("done"),
    );
    // The shell ends at once; its child has something to write, more than fits into a pipe.
    let script = format!(
        r#"sh -c 'trap "head -c 200000 /dev/zero | tr \\0 x; : > {}; exit" TERM; : > {}; while :; do sleep 0.01; done' & wait"#,
        done.display(),
        ready.display()
    );
    let stop = Stop::default();
    let running = run(&script, |_| {}, &stop);
    tokio::pin!(running);
    while !ready.exists() {
        tokio::select! {
            _ = &mut running => panic!("it ended"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    stop.now(StopReason::LeaseLost);
    let (finish, _) = running.await;
    assert_eq!(finish, Finish::Stopped(StopReason::LeaseLost));
    assert!(done.exists());
}

#[tokio::test]
async fn what_a_program_leaves_running_goes_with_it() {
    let (finish, lines) = run("sleep 1000 & echo $!", |_| {}, &Stop::default()).await;
    assert_eq!(finish, Finish::Exited(0));
    gone(lines[0].strip_prefix("stdout: ").unwrap()).await;
}

#[tokio::test]
async fn a_lost_lease_ends_a_program_and_a_shutdown_after_a_while() {
    let stop = Stop::default();
    stop.now(StopReason::LeaseLost);
    let (finish, _) = run("sleep 1000", |_| {}, &stop).await;
    assert_eq!(finish, Finish::Stopped(StopReason::LeaseLost));

    let stop = Stop::default();
    stop.now(StopReason::ShuttingDown);
    let (finish, _) = run("exit 0", |_| {}, &stop).await;
    assert_eq!(finish, Finish::Exited(0));
    let (finish, _) = run("sleep 1000", |it| it.after_stop = Duration::ZERO, &stop).await;
    assert_eq!(finish, Finish::Stopped(StopReason::ShuttingDown));
    let (finish, _) = run("kill -9 $$", |_| {}, &stop).await;
    assert_eq!(finish, Finish::Signalled(9));
}

#[tokio::test]
async fn who_stops_waiting_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; sleep 1000",
        file.display()
    );
    let stop = Stop::default();
    let pid = {
        let running = run(&script, |_| {}, &stop);
        tokio::pin!(running);
        loop {
            tokio::select! {
                _ = &mut running => panic!("it ended"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            if let Ok(pid) = std::fs::read_to_string(&file) {
                break pid;
            }
        }
    };
    gone(pid.trim()).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("program");
    let invocation = |path: &Path| Invocation {
        path: path.to_owned(),
        arguments: Vec::new(),
        pass_environment: Vec::new(),
        environment: Vec::new(),
        input: String::new(),
        timeout: Duration::from_secs(60),
        after_stop: Duration::from_secs(60),
        time_to_end: TIME_TO_END,
    };
    let start = async || {
        let invocation = invocation(&file);
        Processes
            .run(&invocation, &Stop::default(), &|_, _| {})
            .await
            .unwrap_err()
            .kind()
    };
    assert_eq!(start().await, io::ErrorKind::NotFound);
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(start().await, io::ErrorKind::PermissionDenied);
}
