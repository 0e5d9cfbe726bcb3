use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::mpsc;

use super::*;

/// Hands each line to the test, which says whether it is written; a line waits for that.
struct Judged {
    lines: mpsc::Sender<String>,
    verdicts: mpsc::Receiver<io::Result<()>>,
}

impl Target for Judged {
    fn write(&mut self, line: &str) -> io::Result<()> {
        // The test may have seen enough.
        let _ = self.lines.send(line.to_owned());
        self.verdicts.recv().unwrap_or(Ok(()))
    }
}

fn trouble(lines: u64, failure: Option<&str>) -> Trouble {
    Trouble {
        lines,
        failure: failure.map(str::to_owned),
    }
}

/// A sink whose first line is being written, and what decides on it.
fn hanging() -> (Sink, mpsc::Receiver<String>, mpsc::Sender<io::Result<()>>) {
    let (lines, written) = mpsc::channel();
    let (verdict, verdicts) = mpsc::channel();
    let sink = Sink::start(Judged { lines, verdicts }).unwrap();
    sink.write("first");
    assert_eq!(written.recv().unwrap(), "first");
    (sink, written, verdict)
}

#[test]
fn a_target_that_makes_no_progress_is_a_failure_until_it_does() {
    let (sink, written, verdict) = hanging();
    let start = Instant::now();
    let at = |time: Duration| sink.trouble(start + time);
    let second = Duration::from_secs(1);
    assert_eq!(at(Duration::ZERO), trouble(0, None));
    assert_eq!(at(STUCK - second), trouble(0, None));
    assert_eq!(at(STUCK), trouble(0, Some(NO_PROGRESS)));
    // The next line is another one, which has only begun.
    sink.write("second");
    verdict.send(Ok(())).unwrap();
    assert_eq!(written.recv().unwrap(), "second");
    assert_eq!(at(3 * STUCK), trouble(0, None));
    assert_eq!(at(4 * STUCK), trouble(0, Some(NO_PROGRESS)));
    verdict.send(Ok(())).unwrap();
    assert_eq!(sink.close(Duration::MAX), trouble(0, None));
}

#[test]
fn the_end_waits_for_a_target_that_hangs_for_a_bounded_time_and_says_what_is_lost() {
    let (sink, _written, verdict) = hanging();
    sink.write("second");
    assert_eq!(
        sink.close(Duration::from_millis(10)),
        trouble(2, Some(NO_PROGRESS))
    );
    // Nor does dropping it wait.
    drop(sink);
    drop(verdict);

    let (sink, _written, verdict) = hanging();
    sink.write("second");
    // For each try that may be made of it.
    for _ in 0..3 {
        verdict
            .send(Err(io::Error::other("the agent is away")))
            .unwrap();
    }
    assert_eq!(
        sink.close(Duration::MAX),
        trouble(2, Some("the agent is away"))
    );
}

#[test]
fn a_target_that_hangs_holds_nobody_up_and_the_oldest_lines_are_dropped_and_counted() {
    let (sink, written, verdict) = hanging();
    // It hangs in the first line from here on.
    for n in 0..CAPACITY + 5 {
        sink.write(&n.to_string());
    }
    let now = Instant::now();
    assert_eq!(sink.trouble(now), trouble(5, None));
    assert_eq!(sink.trouble(now), trouble(0, None));
    // The first line comes back into a full queue, as its oldest.
    verdict
        .send(Err(io::Error::other("the agent is away")))
        .unwrap();
    assert_eq!(written.recv().unwrap(), "5");
    assert_eq!(sink.trouble(now), trouble(1, Some("the agent is away")));
    // And all that is left is written at the end, in order.
    drop(verdict);
    drop(sink);
    let rest: Vec<String> = written.iter().collect();
    assert_eq!(rest.len(), CAPACITY - 1);
    assert_eq!(rest[0], "6");
    assert_eq!(rest[CAPACITY - 2], (CAPACITY + 4).to_string());
}

#[test]
fn a_file_that_was_rotated_away_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.log");
    let rotated = directory.path().join("metrics.log.1");
    let mut file = AppendedFile::new(path.clone());
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    file.write("one").unwrap();
    file.write("two").unwrap();
    std::fs::rename(&path, &rotated).unwrap();
    file.write("three").unwrap();
    assert_eq!(read(&rotated), "one\ntwo\n");
    assert_eq!(read(&path), "three\n");
    // Renamed, and made anew by someone else.
    std::fs::rename(&path, &rotated).unwrap();
    std::fs::write(&path, "").unwrap();
    file.write("four").unwrap();
    assert_eq!(read(&path), "four\n");
    // Truncated in place, as by copytruncate.
    std::fs::write(&path, "").unwrap();
    file.write("five").unwrap();
    assert_eq!(read(&path), "five\n");
    // After a line that was cut short.
    file.torn = true;
    file.write("six").unwrap();
    assert_eq!(read(&path), "five\n\nsix\n");
}

#[test]
fn a_listener_that_went_away_gets_every_later_line_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut connection = Connection::new(address.to_string());
    let accept = |listener: &TcpListener| BufReader::new(listener.accept().unwrap().0);
    let line = |from: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        line
    };

    connection.write("one").unwrap();
    let mut accepted = accept(&listener);
    connection.write("two").unwrap();
    assert_eq!(line(&mut accepted), "one\n");
    assert_eq!(line(&mut accepted), "two\n");

    // The connection goes; the listener stays.
    drop(accepted);
    connection.write("three").unwrap();
    let mut accepted = accept(&listener);
    assert_eq!(line(&mut accepted), "three\n");

    // Both go.
    drop((accepted, listener));
    connection.write("four").unwrap_err();
    let listener = TcpListener::bind(address).unwrap();
    connection.write("four").unwrap();
    assert_eq!(line(&mut accept(&listener)), "four\n");
}
