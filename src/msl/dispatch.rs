//! One dispatch in a child process: request, time limit, response. The format is at the top of
//! `msl/host/host_main.cpp`.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::findings::{self, Finding};
use crate::driver::DriverError;

/// How lanes run, and whether accesses are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// No checks beyond guard pages; lanes run ahead.
    Fast,
    /// Checked; lanes run ahead to the next barrier or simdgroup operation.
    CheckStrict,
    /// Checked; the lanes of a simdgroup keep close, as on a GPU.
    CheckLockstep,
    /// No checks; lanes keep close.
    FastLockstep,
}

impl Mode {
    /// Whether the kernel must be built with checks: lockstep, too, is kept at every access.
    pub const fn checked(self) -> bool {
        !matches!(self, Self::Fast)
    }
}

/// The order in which lanes, simdgroups and threadgroups take their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LaneOrder {
    /// From the first.
    #[default]
    Ascending,
    /// From the last.
    Descending,
}

/// A buffer of a dispatch.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// `[[buffer(n)]]`.
    pub index: u32,
    /// Whether the caller lets the kernel write it.
    pub writable: bool,
    /// Contents, before and after.
    pub bytes: Vec<u8>,
}

/// A dispatch.
#[derive(Debug, Clone)]
pub struct Request {
    /// Mode.
    pub mode: Mode,
    /// Lane order.
    pub order: LaneOrder,
    /// Name of the kernel.
    pub kernel: String,
    /// Threadgroups.
    pub threadgroups: [u32; 3],
    /// Threads of one threadgroup.
    pub threads: [u32; 3],
    /// Function constants: index, type number, value bits.
    pub constants: Vec<(u32, u32, u64)>,
    /// Bytes of threadgroup arguments, by index.
    pub threadgroup_memory: Vec<(u32, u32)>,
    /// Buffers.
    pub buffers: Vec<Buffer>,
    /// Time limit.
    pub limit: Duration,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Response {
    /// Findings.
    pub findings: Vec<Finding>,
    /// Bytes of threadgroup memory used.
    pub threadgroup_bytes: u64,
    /// CPU time of the dispatch.
    pub cpu: Duration,
    /// Buffers after the run, in request order.
    pub buffers: Vec<Vec<u8>>,
}

const REQUEST_MAGIC: u32 = 0x514c_534d;
const RESPONSE_MAGIC: u32 = 0x524c_534d;
const VERSION: u32 = 1;

/// Runs `request` with the host program on a compiled kernel.
pub fn run(host: &Path, object: &Path, request: &Request) -> Result<Response, DriverError> {
    let bytes = exchange(host, object, encode(request), request.limit, &request.kernel)?;
    decode(&bytes, host, object, &request.kernel)
}

/// Kernels of a compiled file with their argument tables, as JSON.
pub fn list(host: &Path, object: &Path) -> Result<serde_json::Value, DriverError> {
    let mut out = Vec::new();
    for number in [REQUEST_MAGIC, VERSION, 1, 0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let bytes = exchange(host, object, out, Duration::from_secs(20), "list")?;
    let json = Cursor::new(&bytes, "list").header()?;
    serde_json::from_str(&json).map_err(|e| broken("list", &e.to_string()))
}

fn encode(r: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    let u32s = |out: &mut Vec<u8>, numbers: &[u32]| {
        numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    };
    u32s(&mut out, &[REQUEST_MAGIC, VERSION, 0, r.constants.len() as u32]);
    for (index, ty, value) in &r.constants {
        u32s(&mut out, &[*index, *ty]);
        out.extend_from_slice(&value.to_le_bytes());
    }
    let mode = match r.mode {
        Mode::Fast => 0,
        Mode::CheckStrict => 1,
        Mode::CheckLockstep => 2,
        Mode::FastLockstep => 3,
    };
    u32s(&mut out, &[mode, u32::from(r.order == LaneOrder::Descending), r.kernel.len() as u32]);
    out.extend_from_slice(r.kernel.as_bytes());
    u32s(&mut out, &[0]);
    u32s(&mut out, &r.threadgroups);
    u32s(&mut out, &r.threads);
    u32s(&mut out, &[r.threadgroup_memory.len() as u32]);
    for (index, bytes) in &r.threadgroup_memory {
        u32s(&mut out, &[*index, *bytes]);
    }
    u32s(&mut out, &[r.buffers.len() as u32]);
    for b in &r.buffers {
        u32s(&mut out, &[b.index, b.writable.into()]);
        out.extend_from_slice(&(b.bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(&b.bytes);
    }
    out
}

/// Sends the request to a child and takes its answer, within the time limit.
fn exchange(
    host: &Path,
    object: &Path,
    request: Vec<u8>,
    limit: Duration,
    kernel: &str,
) -> Result<Vec<u8>, DriverError> {
    let fail = |source| DriverError::File { path: host.to_owned(), source };
    let mut child = Command::new(host)
        .arg(object)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // Pipes are finite: a thread each, or a large dispatch would wait on itself.
    let writer = std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&request)));
    let reader = std::thread::spawn(move || drain(stdout));
    let complaints = std::thread::spawn(move || drain(stderr));
    let status = wait(&mut child, limit).map_err(fail)?;
    let _ = writer.join();
    let bytes = reader.join().unwrap_or_default();
    let complaint = String::from_utf8_lossy(&complaints.join().unwrap_or_default()).into_owned();
    match status {
        Some(status) if status.success() => Ok(bytes),
        Some(status) => Err(broken(kernel, &format!("the host ended with {status}: {complaint}"))),
        None => {
            Err(DriverError::MslTimeout { kernel: kernel.to_owned(), seconds: limit.as_secs() })
        }
    }
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// Waits for the child; kills it at the limit.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn broken(kernel: &str, message: &str) -> DriverError {
    DriverError::Msl { message: format!("{kernel}: {}", crate::driver::one_line(message)) }
}

fn decode(bytes: &[u8], host: &Path, object: &Path, kernel: &str) -> Result<Response, DriverError> {
    let mut at = Cursor::new(bytes, kernel);
    let json = at.header()?;
    let seen = serde_json::from_str(&json).map_err(|e| broken(kernel, &e.to_string()))?;
    let findings = findings::resolve(seen, host, object)?;
    let threadgroup_bytes = at.u64()?;
    let cpu = Duration::from_nanos(at.u64()?);
    let count = at.u32()?;
    let mut buffers = Vec::new();
    for _ in 0..count {
        at.u32()?;
        let length = at.u64()?;
        buffers.push(at.take(length)?.to_vec());
    }
    Ok(Response { findings, threadgroup_bytes, cpu, buffers })
}

/// Reads a response.
struct Cursor<'a> {
    rest: &'a [u8],
    kernel: &'a str,
}

impl<'a> Cursor<'a> {
    const fn new(rest: &'a [u8], kernel: &'a str) -> Self {
        Self { rest, kernel }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], DriverError> {
        let split = usize::try_from(count).ok().and_then(|n| self.rest.split_at_checked(n));
        let (head, rest) =
            split.ok_or_else(|| broken(self.kernel, "the host's response is cut short"))?;
        self.rest = rest;
        Ok(head)
    }

    fn u32(&mut self) -> Result<u32, DriverError> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Result<u64, DriverError> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    fn text(&mut self) -> Result<String, DriverError> {
        let length = self.u32()?.into();
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// Checks the head of the response; returns its JSON.
    fn header(&mut self) -> Result<String, DriverError> {
        if self.u32()? != RESPONSE_MAGIC || self.u32()? != VERSION {
            return Err(broken(self.kernel, "the host's response is not one"));
        }
        let (status, message) = (self.u32()?, self.text()?);
        if status != 0 {
            return Err(broken(self.kernel, &message));
        }
        self.text()
    }
}
