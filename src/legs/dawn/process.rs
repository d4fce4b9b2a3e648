//! The process that has Dawn: a request in, a response out, a time limit. The format is at the top
//! of `host.mjs`.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::driver::{DriverError, one_line};

/// JSON with the bytes that belong to it.
#[derive(Debug, Default)]
struct Message {
    json: Vec<u8>,
    data: Vec<u8>,
}

/// What the other side says of a request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// Line of the shader's text.
    pub line: Option<u32>,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FailureKind {
    Adapter,
    Device,
    Shader,
}

/// An answer: what was asked for, or why not.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Failed { error: Failure },
    Done(T),
}

/// The child, and the thread that talks to it: so that a time limit holds for every pipe.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    requests: Sender<Message>,
    responses: Receiver<io::Result<Message>>,
    complaints: Option<JoinHandle<Vec<u8>>>,
}

impl Process {
    /// Starts `command`.
    pub fn start(mut command: Command) -> Result<Self, DriverError> {
        let program = command.get_program().to_owned();
        let fail = |source| DriverError::File { path: program.into(), source };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(fail)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(mut stderr)) = pipes else {
            return Err(DriverError::Dawn { message: "its process has no pipes".to_owned() });
        };
        let (requests, to_send) = channel();
        let (received, responses) = channel();
        std::thread::spawn(move || talk(stdin, stdout, &to_send, &received));
        let complaints = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            bytes
        });
        Ok(Self { child, requests, responses, complaints: Some(complaints) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request and takes the answer. `what` names it in errors, after which the process is
    /// of no use any more; a [`Failure`] leaves it as it was.
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        what: &str,
        request: &impl Serialize,
        data: Vec<u8>,
        limit: Duration,
    ) -> Result<Result<(T, Vec<u8>), Failure>, DriverError> {
        let broken = |message: &str| DriverError::Dawn { message: format!("{what}: {message}") };
        let json = serde_json::to_vec(request).map_err(|e| broken(&e.to_string()))?;
        // A thread that is gone shows in what it sent last, if anything.
        let _ = self.requests.send(Message { json, data });
        let message = match self.responses.recv_timeout(limit) {
            Ok(Ok(message)) => message,
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                return Err(DriverError::DawnTimeout {
                    what: what.to_owned(),
                    seconds: limit.as_secs(),
                });
            }
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                return Err(broken(&self.last_words()));
            }
        };
        match serde_json::from_slice(&message.json) {
            Ok(Answer::Done(answer)) => Ok(Ok((answer, message.data))),
            Ok(Answer::Failed { error }) => Ok(Err(error)),
            Err(e) => Err(broken(&format!("its answer is not one: {e}"))),
        }
    }

    /// How the process ended, with the last line of what it wrote to stderr.
    fn last_words(&mut self) -> String {
        // It may have closed its pipes and still be there.
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
        let complaints = self.complaints.take().and_then(|t| t.join().ok()).unwrap_or_default();
        let complaints = String::from_utf8_lossy(&complaints);
        let last = complaints.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("no message");
        format!("its process ended with {status}: {}", one_line(last))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every request until one side is gone.
fn talk(
    mut stdin: ChildStdin,
    mut stdout: ChildStdout,
    requests: &Receiver<Message>,
    responses: &Sender<io::Result<Message>>,
) {
    while let Ok(request) = requests.recv() {
        let response = write(&mut stdin, &request).and_then(|()| read(&mut stdout));
        let failed = response.is_err();
        if responses.send(response).is_err() || failed {
            return;
        }
    }
}

fn write(to: &mut impl Write, message: &Message) -> io::Result<()> {
    to.write_all(&(message.json.len() as u32).to_le_bytes())?;
    to.write_all(&(message.data.len() as u64).to_le_bytes())?;
    to.write_all(&message.json)?;
    to.write_all(&message.data)?;
    to.flush()
}

fn read(from: &mut impl Read) -> io::Result<Message> {
    let (mut json, mut data) = ([0; 4], [0; 8]);
    from.read_exact(&mut json)?;
    from.read_exact(&mut data)?;
    let mut take = |count: u64| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let got = from.take(count).read_to_end(&mut bytes)? as u64;
        if got == count { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    };
    let json = take(u32::from_le_bytes(json).into())?;
    Ok(Message { json, data: take(u64::from_le_bytes(data))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_and_a_cut_one_is_an_error() {
        let message = Message { json: b"{}".to_vec(), data: vec![1, 2, 3] };
        let mut bytes = Vec::new();
        write(&mut bytes, &message).unwrap();
        let back = read(&mut bytes.as_slice()).unwrap();
        assert_eq!((back.json, back.data), (message.json, message.data));
        for cut in 0..bytes.len() {
            assert!(read(&mut &bytes[..cut]).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn an_answer_is_told_from_a_failure() {
        let text = r#"{"error":{"kind":"shader","message":"no","line":3}}"#;
        let Ok(Answer::<serde_json::Value>::Failed { error }) = serde_json::from_str(text) else {
            panic!("taken for an answer");
        };
        assert_eq!((error.kind, error.line), (FailureKind::Shader, Some(3)));
    }
}
