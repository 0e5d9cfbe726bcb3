//! A world for one test: an embedded AWS on a loopback address, a configuration file, and the real
//! program as a child process.
//!
//! Nothing here sleeps for luck. Every wait is for a condition and ends after [`PATIENCE`] in a
//! panic; a child that is alive then is killed, and what it wrote is printed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use embedded_aws::{
    Action, AwsService, Depth, DistributionView, EmbeddedAws, Entry, EventOptions, Listener,
    Queues, Rule, Service, Settings,
};
use serde_json::Value;
use stagesweep::runtime::clock::Clock;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::kept;

/// Longer than any wait of any test takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// How long CloudFront takes where a test does not care.
pub(crate) const PROPAGATION: Duration = Duration::from_millis(300);

/// Longer than any test: what waits for it is interrupted, or settled by the test's own hand.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// The queue's redrive policy.
pub(crate) const MAX_RECEIVES: u32 = 5;

/// The five changes of a cleanup, in the only safe order.
pub(crate) const SAFE_ORDER: [&str; 5] = [
    "PutParameter",
    "UpdateDistribution",
    "DeleteContinuousDeploymentPolicy",
    "UpdateDistribution",
    "DeleteDistribution",
];

/// The target that fits [`EmbeddedAws::create_service`].
pub(crate) const TARGET: &str = r#"
[[targets]]
pipeline = "{service}-frontend-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
"#;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An AWS of its own, a queue on it, and a directory.
pub(crate) struct World {
    pub(crate) aws: EmbeddedAws,
    pub(crate) queues: Queues,
    listener: Listener,
    directory: TempDir,
    /// Something besides the daemon was started.
    other_verbs: AtomicBool,
}

impl Drop for World {
    fn drop(&mut self) {
        let mut entries = self.aws.journal().entries();
        if self.other_verbs.load(Ordering::Relaxed) {
            // Of the other verbs, what the role allows for `doctor`.
            let its_own = [AwsService::EventBridge, AwsService::Iam];
            let looks = ["DescribeParameters", "GetQueueAttributes"];
            entries.retain(|entry| {
                let call = &entry.call;
                its_own.contains(&call.service) || looks.contains(&call.operation.as_str())
            });
        }
        note_calls(&entries);
    }
}

/// Appends the operations that were not noted yet by this process to `aws-calls.txt` in cargo's directory
/// for tests, each with the caller's account and what it was about, or `-`.
fn note_calls(entries: &[Entry]) {
    static NOTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut noted = lock(&NOTED);
    // Whose credentials these are may be asked without any permission.
    let permitted = entries.iter().filter(|it| !it.is("GetCallerIdentity"));
    let calls = permitted.map(|entry| {
        let call = &entry.call;
        let resource = call.resource.as_deref().unwrap_or("-");
        format!(
            "{} {} {} {resource}\n",
            call.service, call.operation, call.account
        )
    });
    let new: BTreeSet<String> = calls.filter(|call| !noted.contains(call)).collect();
    if new.is_empty() {
        return;
    }
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/aws-calls.txt");
    let file = OpenOptions::new().create(true).append(true).open(path);
    for call in &new {
        file.as_ref().unwrap().write_all(call.as_bytes()).unwrap();
    }
    noted.extend(new);
}

/// A service, and its production distribution as it was before anything ran.
pub(crate) struct Deployed {
    pub(crate) service: Service,
    production: DistributionView,
    versions: usize,
}

impl std::ops::Deref for Deployed {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(PROPAGATION).await
    }

    /// A world in which changes take so long to propagate.
    pub(crate) async fn with(propagation: Duration) -> Self {
        let settings = Settings {
            propagation,
            ..Settings::default()
        };
        let aws = EmbeddedAws::new(Clock::system(), settings);
        let queues = aws.create_queue_with_dlq("stagesweep", MAX_RECEIVES, Duration::from_secs(30));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listener: aws.listen(address).await.unwrap(),
            aws,
            queues,
            directory: tempfile::tempdir().unwrap(),
            other_verbs: AtomicBool::new(false),
        }
    }

    pub(crate) fn service(&self, name: &str) -> Deployed {
        let service = self.aws.create_service(name).unwrap();
        Deployed {
            production: self.aws.distribution(&service.production_id).unwrap(),
            versions: self.aws.parameter_history(&service.staging_parameter).len(),
            service,
        }
    }

    /// Puts the service's rejection on the queue.
    pub(crate) fn reject(&self, service: &Service) -> String {
        self.send(&self.aws.rejection_event(service, &EventOptions::default()))
    }

    pub(crate) fn send(&self, body: &str) -> String {
        self.aws.send(&self.queues.url, body).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn endpoint_url(&self) -> String {
        self.listener.endpoint_url()
    }

    pub(crate) fn queue_url(&self) -> String {
        format!("{}/123456789012/stagesweep", self.endpoint_url())
    }

    /// Writes a configuration: short times, `more` in addition.
    pub(crate) fn write_config(&self, name: &str, more: &str) -> PathBuf {
        let path = self.path(name);
        let text = format!(
            r#"
[queue]
url = "{}"
wait_time = "1s"
visibility_timeout = "2s"
heartbeat_interval = "700ms"
[cleanup]
poll_interval_min = "100ms"
poll_interval_max = "250ms"
[retry]
initial_backoff = "300ms"
max_backoff = "1s"
[shutdown]
grace_period = "15s"
[ledger]
path = "{}"
{more}
"#,
            self.queue_url(),
            self.path("ledger.db").display()
        );
        // At once: another daemon may be reading it.
        let new = self.path("config.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    }

    /// `stagesweep run` with the configuration of [`Self::write_config`].
    pub(crate) fn daemon(&self) -> Launch {
        let config = self.write_config("config.toml", TARGET);
        self.program(&["run", "--config"]).argument(config)
    }

    /// The program in a clean environment that points it at this world.
    pub(crate) fn program(&self, arguments: &[&str]) -> Launch {
        if arguments.first() != Some(&"run") {
            self.other_verbs.store(true, Ordering::Relaxed);
        }
        Launch::new(self.directory.path(), arguments)
            .env("AWS_ENDPOINT_URL", &self.endpoint_url())
            .env("AWS_REGION", "ap-northeast-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
    }

    pub(crate) fn depth(&self) -> Depth {
        self.aws.depth(&self.queues.url).unwrap()
    }

    pub(crate) fn dead_letters(&self) -> usize {
        self.aws.messages(&self.queues.dead_letter_url).len()
    }

    /// Waits for a condition on the world.
    pub(crate) async fn until(&self, what: &str, condition: impl FnMut(&EmbeddedAws) -> bool) {
        if self.aws.wait_until(condition, PATIENCE).await.is_err() {
            panic!("never: {what}\n{}", self.journal());
        }
    }

    /// Waits until the queue has no message left.
    pub(crate) async fn settled(&self) {
        let empty = |aws: &EmbeddedAws| aws.messages(&self.queues.url).is_empty();
        self.until("the queue is empty", empty).await;
    }

    /// Turns true when a matching call comes in.
    pub(crate) fn notice(&self, rule: Rule) -> watch::Receiver<bool> {
        let (sender, receiver) = watch::channel(false);
        let tell = move |_: &EmbeddedAws, _: &_| {
            sender.send_replace(true);
        };
        self.aws.add_rule(rule.then(Action::before(tell)));
        receiver
    }

    pub(crate) fn journal(&self) -> String {
        let lines: Vec<_> = self
            .aws
            .journal()
            .entries()
            .iter()
            .map(Entry::to_string)
            .collect();
        lines.join("\n")
    }

    /// What was changed in CloudFront and Parameter Store, in order.
    pub(crate) fn changes(&self) -> Vec<Entry> {
        self.aws.journal().mutations()
    }

    /// What was changed of one service, in order.
    pub(crate) fn changes_of(&self, service: &Service) -> Vec<String> {
        let own = [
            &service.production_id,
            &service.staging_id,
            &service.policy_id,
            &service.production_parameter,
            &service.staging_parameter,
        ];
        let entries = self.changes();
        let changes = entries
            .iter()
            .filter(|it| own.iter().any(|own| it.about(own)));
        changes.map(|it| it.call.operation.clone()).collect()
    }

    /// The verdict on one service: everything of the rejected deployment is gone, each step took
    /// place once and in the safe order, and production changed in one element only.
    pub(crate) fn assert_cleaned_once(&self, deployed: &Deployed) {
        self.assert_clean(deployed);
        let journal = self.journal();
        assert_eq!(self.changes_of(deployed), SAFE_ORDER, "\n{journal}");
        let versions = self.aws.parameter_history(&deployed.staging_parameter);
        assert_eq!(versions.len(), deployed.versions + 1, "\n{journal}");
    }

    /// As [`Self::assert_cleaned_once`], whatever way it took.
    pub(crate) fn assert_clean(&self, deployed: &Deployed) {
        let journal = self.journal();
        let (aws, service) = (&self.aws, &deployed.service);
        assert!(
            aws.distribution(&service.staging_id).is_none(),
            "\n{journal}"
        );
        assert!(aws.policy(&service.policy_id).is_none(), "\n{journal}");
        let value = aws.parameter(&service.staging_parameter);
        assert_eq!(value.as_deref(), Some("deleted"), "\n{journal}");
        let value = aws.parameter(&service.production_parameter);
        assert_eq!(value.as_ref(), Some(&service.production_id));
        let production = aws.distribution(&service.production_id).unwrap();
        let (before, policy, after) = around_policy(&deployed.production.config);
        assert_eq!(policy, service.policy_id);
        assert_eq!(around_policy(&production.config), (before, "", after));
    }

    /// Nothing at all was changed.
    pub(crate) fn assert_untouched(&self) {
        assert!(self.changes().is_empty(), "\n{}", self.journal());
    }

    /// The number of the exchange that deleted the message.
    pub(crate) fn deletion_of(&self, message_id: &str) -> Option<u64> {
        let this = format!("{message_id} deleted");
        let entries = self.aws.journal().entries();
        let deletion = entries.iter().find(|entry| {
            let change = entry.change.as_ref();
            change.is_some_and(|change| change.description.contains(&this))
        });
        deletion.map(|entry| entry.number)
    }

    /// The message was deleted, and only after the last change of its service, the deletion of the staging
    /// distribution.
    pub(crate) fn assert_deleted_last(&self, service: &Service, message_id: &str) {
        let journal = self.journal();
        let entries = self.aws.journal().entries();
        let gone = entries.iter().find(|entry| {
            entry.is("DeleteDistribution") && entry.about(&service.staging_id) && entry.mutated()
        });
        let gone = gone.map(|entry| entry.number);
        let deleted = self.deletion_of(message_id);
        assert!(gone.is_some() && gone < deleted, "{message_id}\n{journal}");
    }
}

/// Waits for what [`World::notice`] returned.
pub(crate) async fn noticed(mut notice: watch::Receiver<bool>) {
    let noticed = notice.wait_for(|noticed| *noticed);
    let noticed = tokio::time::timeout(PATIENCE, noticed).await;
    assert!(noticed.is_ok(), "the call never came");
}

/// What stands before the policy's id, the id, and what stands after it.
fn around_policy(config: &str) -> (&str, &str, &str) {
    const ELEMENT: &str = "ContinuousDeploymentPolicyId>";
    let (before, rest) = config.split_once(ELEMENT).unwrap();
    let (id, after) = rest.split_once("</").unwrap();
    assert!(after.starts_with(ELEMENT), "{config}");
    (before, id, after)
}

/// A command line, yet to be run.
pub(crate) struct Launch {
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    read: bool,
    wrapper: Vec<OsString>,
}

impl Launch {
    /// The program with nothing in its environment that leads out of this machine.
    pub(crate) fn new(directory: &Path, arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: Vec::new(),
            directory: directory.to_owned(),
            read: true,
            wrapper: Vec::new(),
        }
        .env("AWS_EC2_METADATA_DISABLED", "true")
    }

    pub(crate) fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(it, _)| it != name);
        self
    }

    /// Nobody reads the program's standard output, and nobody closes it.
    pub(crate) fn unread(mut self) -> Self {
        self.read = false;
        self
    }

    /// Another program is started, with the command line at the end of its own; it becomes ours.
    pub(crate) fn through<const N: usize>(mut self, wrapper: [&str; N]) -> Self {
        self.wrapper = wrapper.map(OsString::from).into();
        self
    }

    pub(crate) fn spawn(self) -> Process {
        let built = || OsString::from(env!("CARGO_BIN_EXE_stagesweep"));
        let program = std::env::var_os("STAGESWEEP_BINARY").unwrap_or_else(built);
        let mut line = self.wrapper.iter().chain([&program]);
        let mut command = Command::new(line.next().unwrap());
        command.args(line);
        let mut child = command
            .args(&self.arguments)
            .env_clear()
            .env("HOME", &self.directory)
            .env("TMPDIR", &self.directory)
            .envs(self.environment)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Output::reading(child.stderr.take().unwrap());
        let stdout = child.stdout.take().unwrap();
        let (stdout, unread) = if self.read {
            (Output::reading(stdout), None)
        } else {
            (Output::closed(), Some(stdout))
        };
        let command: Vec<_> = self
            .arguments
            .iter()
            .map(|it| it.to_string_lossy())
            .collect();
        Process {
            command: command.join(" "),
            child: Arc::new(Mutex::new(child)),
            stdout,
            stderr,
            _unread: unread,
        }
    }

    /// Runs the program to its end.
    pub(crate) async fn finish(self) -> Finished {
        let process = self.spawn();
        process.finished().await
    }
}

/// What a program that ran to its end left.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running program. Dropping it kills it.
pub(crate) struct Process {
    command: String,
    child: Arc<Mutex<Child>>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    _unread: Option<ChildStdout>,
}

impl Process {
    /// Waits for its end.
    pub(crate) async fn finished(&self) -> Finished {
        let status = self.exited().await;
        let ended = Finished {
            code: status.code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        };
        if self.command.split(' ').any(|it| it == "--json") {
            kept::keep(&ended);
        }
        ended
    }

    /// Waits for a log line with this message and returns it.
    pub(crate) async fn says(&self, message: &str) -> Value {
        self.says_also(message, |_| true).await
    }

    /// Waits for a log line with this message that fulfils a condition as well.
    pub(crate) async fn says_also(
        &self,
        message: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        let found = |line: &Value| line["message"] == message && condition(line);
        self.line(message, found).await
    }

    /// Waits until the job has come to this wait.
    pub(crate) async fn waits_for(&self, wait: &str) {
        self.says_also("waiting", |line| line["wait"] == wait).await;
    }

    /// Waits for a line of standard output.
    pub(crate) async fn line(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        self.lines_with(what, 1, condition).await
    }

    /// Waits until so many lines of standard output fulfil a condition; returns the last.
    pub(crate) async fn lines_with(
        &self,
        what: &str,
        count: usize,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut changes = self.stdout.0.subscribe();
        let mut seen = 0;
        let mut found = 0;
        let search = async {
            loop {
                {
                    let read = changes.borrow_and_update();
                    for line in read.lines[seen..].iter().filter_map(|line| json(line)) {
                        found += usize::from(condition(&line));
                        if found == count {
                            return line;
                        }
                    }
                    seen = read.lines.len();
                    assert!(!read.ended, "ended without a line: {what}\n{self:?}");
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(line) => line,
            Err(_) => panic!("never a line: {what}\n{self:?}"),
        }
    }

    /// Waits until standard output has this text, of whatever form.
    pub(crate) async fn writes(&self, text: &str) {
        let mut changes = self.stdout.0.subscribe();
        let has = |read: &Text| read.lines.iter().any(|line| line.contains(text));
        let written = changes.wait_for(|read| has(read) || read.ended);
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(read)) if has(&read) => {}
            _ => panic!("never written: {text}\n{self:?}"),
        }
    }

    /// Every line of standard output so far, as JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let read = self.stdout.0.borrow();
        let parsed = read.lines.iter().map(|line| json(line).ok_or(line));
        parsed
            .collect::<Result<_, _>>()
            .expect("every line is one JSON object")
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        // Locked, so that the process cannot be reaped and its id reused meanwhile.
        let mut child = lock(&self.child);
        assert!(
            child.try_wait().unwrap().is_none(),
            "it has exited\n{self:?}"
        );
        let sent = Command::new("kill")
            .args(["-s", name, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// The process's id, as long as it has not exited.
    pub(crate) fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// `kill -9`, from anywhere.
    pub(crate) fn killer(&self) -> impl Fn() + Send + Sync + use<> {
        let child = Arc::clone(&self.child);
        // It may have been killed before.
        move || drop(lock(&child).kill())
    }

    /// Waits until the process has exited, and all it wrote is read.
    pub(crate) async fn exited(&self) -> ExitStatus {
        let closed = async {
            for output in [&self.stdout, &self.stderr] {
                let mut changes = output.0.subscribe();
                changes.wait_for(|read| read.ended).await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, closed).await.is_err() {
            panic!("never exits\n{self:?}");
        }
        // Its pipes are closed: it is as good as gone.
        lock(&self.child).wait().unwrap()
    }

    /// Sends SIGTERM and waits for the exit, which must be a good one.
    pub(crate) async fn stop(&self) {
        self.signal("TERM");
        let status = self.exited().await;
        assert!(status.success(), "{status}\n{self:?}");
    }
}

fn json(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok().filter(Value::is_object)
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // Both fail if it has gone, which is well.
        drop(child.kill());
        drop(child.wait());
        drop(child);
        if std::thread::panicking() {
            eprintln!("{self:?}");
        }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            stdout,
            stderr,
            ..
        } = self;
        write!(
            f,
            "--- stagesweep {command}\n{}\n--- its stderr\n{}",
            stdout.text(),
            stderr.text()
        )
    }
}

/// What a process wrote to one stream.
pub(crate) struct Output(watch::Sender<Text>);

#[derive(Default)]
struct Text {
    lines: Vec<String>,
    ended: bool,
}

impl Output {
    fn closed() -> Self {
        Self(watch::Sender::new(Text {
            ended: true,
            ..Text::default()
        }))
    }

    fn reading(stream: impl Read + Send + 'static) -> Self {
        let sender = watch::Sender::new(Text::default());
        let output = Self(sender.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                sender.send_modify(|read| read.lines.push(line));
            }
            sender.send_modify(|read| read.ended = true);
        });
        output
    }

    pub(crate) fn text(&self) -> String {
        self.0.borrow().lines.join("\n")
    }
}
