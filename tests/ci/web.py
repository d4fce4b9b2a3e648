"""Runs the page of examples/web in headless Chromium and checks what it shows and offers.

    python3 tests/ci/web.py FOLDER EVERY

FOLDER is what examples/web/build.sh wrote; one of EVERY cases runs. The page posts the file of its
download link, and what it shows, to the small server in here, which keeps the file of the first run
as FOLDER/report.json.
"""

import copy
import functools
import http.server
import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Browsers have no cooperative matrices, and no order between workgroups for those that count
# themselves.
NATIVE = ("coopLoad", "atomicAdd")
KERNELS = {
    path.stem
    for path in (ROOT / "wgsl").glob("*.wgsl")
    if not any(word in path.read_text() for word in NATIVE)
}
HEAD_DIMS = {"d64", "d128", "d256", "d512"}
# One case of each kernel at each head dim.
FEWEST = 100_000
TIMEOUT_S = 900
CHROMIUM = [
    "chromium", "--headless=new", "--no-sandbox", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-quic",
    # Without a GPU, Chromium offers its software adapter only when asked to.
    "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
]


class Handler(http.server.SimpleHTTPRequestHandler):
    """The folder, and a place to post to."""

    def __init__(self, *arguments, posted, **options):
        self.posted = posted
        super().__init__(*arguments, **options)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.posted.put(json.loads(body))

    def log_message(self, *_):
        pass


class Page:
    """The page, served for as long as this is open."""

    def __init__(self, folder):
        self.posted = queue.Queue()
        handler = functools.partial(Handler, directory=folder, posted=self.posted)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def run(self, query):
        """What the page shows once it has run with `query`."""
        url = f"http://127.0.0.1:{self.server.server_port}/?report=1&{query}"
        started = time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            browser = subprocess.Popen(
                [*CHROMIUM, f"--user-data-dir={profile}", url],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            try:
                shown = self.posted.get(timeout=TIMEOUT_S)
            except queue.Empty:
                sys.exit(f"web: {query}: the page said nothing for {TIMEOUT_S} s")
            finally:
                browser.terminate()
                browser.wait()
        seconds = time.monotonic() - started
        print(f"web: {query}: {shown['verdict']} ({seconds:.0f} s)", file=sys.stderr)
        return shown


def head_dim(case):
    return next(word for word in case.split() if word in HEAD_DIMS)


def flaws(report, broken=None, subgroups=True):
    """Everything that a report should not be, in words; with a fault in kernel `broken`."""
    found = []
    if report["schema"] != "wgtq.parity/1":
        found.append(f"schema: {report['schema']}")
    labels = [(leg["label"], leg["available"]) for leg in report["legs"]]
    if labels != [("wgsl-browser", True)]:
        found.append(f"legs: {labels}")
    elif (report["legs"][0]["adapter"]["measured_subgroup_size"] is not None) != subgroups:
        found.append("subgroups: not as asked")
    ran = {(case["kernel"], head_dim(case["case"])) for case in report["cases"]}
    wanted = {(kernel, dim) for kernel in KERNELS for dim in HEAD_DIMS}
    found += [f"not run: {kernel} {dim}" for kernel, dim in sorted(wanted - ran)]
    results = [(case, result) for case in report["cases"] for result in case["results"]]
    for case, result in results:
        if result["status"] != "pass" and case["kernel"] != broken:
            found.append(f"{case['kernel']} {case['case']}: {result['status']}: {result['reason']}")
    mismatches = sum(result["status"] == "mismatch" for _, result in results)
    if broken and not mismatches:
        found.append(f"the fault in {broken} was not seen")
    if report["summary"]["mismatch"] != mismatches:
        found.append(f"summary: {report['summary']}, counted {mismatches} mismatches")
    if {source["leg"] for source in report["sources"]} != {"wgsl-browser"}:
        found.append("sources: not those of the leg")
    return found


def bench_flaws(bench, lengths):
    found = []
    if [point["kv_seq_len"] for point in bench["points"]] != lengths:
        found.append("bench: other lengths than asked")
    for point in bench["points"]:
        if point["verified"]["status"] != "pass":
            found.append(f"bench: {point['verified']['reason']}")
        elif not (point["timing"] and point["timing"]["us_per_call"] > 0):
            found.append(f"bench: no time at {point['kv_seq_len']}: {point['verified']['reason']}")
    return found


def expect(name, found):
    if found:
        sys.exit("\n".join([f"web: {name}:", *found[:20]]))


def test_the_check(report):
    """The check itself must see what is wrong."""
    def without_a_kernel(r): r["cases"] = [c for c in r["cases"] if c["kernel"] != "fwht"]
    def one_mismatch(r): r["cases"][0]["results"][0]["status"] = "mismatch"
    def one_skipped(r): r["cases"][0]["results"][0]["status"] = "skipped"
    def other_schema(r): r["schema"] = "wgtq.parity/0"
    def leg_missing(r): r["legs"][0]["available"] = False
    for breakage in [without_a_kernel, one_mismatch, one_skipped, other_schema, leg_missing]:
        broken = copy.deepcopy(report)
        breakage(broken)
        if not flaws(broken):
            sys.exit(f"web: the check accepts a report with {breakage.__name__}")
    if not flaws(report, broken="fwht"):
        sys.exit("web: the check accepts a fault that nothing saw")


def main():
    folder, every = sys.argv[1], int(sys.argv[2])
    page = Page(folder)

    shown = page.run(f"every={every}&bench=256,1024")
    pathlib.Path(folder, "report.json").write_text(shown["report"])
    report = json.loads(shown["report"])
    expect("report", flaws(report) + bench_flaws(report["bench"], [256, 1024]))
    expect("page", [] if shown["state"] == "pass" and not shown["red"] else [str(shown["verdict"])])
    print(f"web: {len(report['cases'])} cases ran on {report['legs'][0]['adapter']['name']}",
          file=sys.stderr)
    test_the_check(report)

    shown = page.run(f"every={FEWEST}&bench=none&subgroups=off")
    expect("without subgroups", flaws(json.loads(shown["report"]), subgroups=False))
    expect("page", [] if shown["state"] == "pass" else [str(shown["verdict"])])

    for kernel in sorted(KERNELS):
        shown = page.run(f"every={FEWEST}&bench=none&break={kernel}")
        expect(f"break={kernel}", flaws(json.loads(shown["report"]), broken=kernel))
        red = shown["state"] == "fail" and shown["failures"] > 0 and set(shown["red"]) == {kernel}
        expect(f"break={kernel}", [] if red else [f"the page is {shown['state']}, red: {shown['red']}"])

    shown = page.run("break=softmax")
    expect("an unknown kernel", [] if shown["report"] is None and "softmax" in shown["verdict"] else [str(shown)])


if __name__ == "__main__":
    main()
