//! The page has everything, and nothing in a report can break it.

use serde_json::{Value, json};

use super::*;
use crate::parity::report::Report;

const HOSTILE: &str = "</script><script>alert(1)</script><!-- \"'&\\ \u{2028}";

fn result(leg: &str, against: &str, status: &str, reason: &str) -> Value {
    json!({
        "leg": leg, "against": against, "status": status, "reason": reason,
        "metric": "nrmse", "error": 1.5e-6, "tolerance": 5e-6,
        "worst": { "index": 3, "got": 0.25, "want": 0.5 },
        "histogram": [{ "label": "equal", "count": 7 }, { "label": "1e-8", "count": 0 }],
        "ways": [{ "way": "strict", "error": 1.5e-6 }, { "way": "lockstep", "error": null }],
        "limits": [], "findings": null, "timing": { "compile_ms": 1.23456, "execute_ms": 2.0 },
    })
}

fn report(cases: Value) -> Report {
    let adapter = json!({
        "name": "a GPU", "backend": "vulkan", "device_type": "cpu", "driver": "1",
        "subgroup_size": null, "measured_subgroup_size": null, "shader_f16": false,
        "timestamps": false, "passthrough": false, "max_workgroup_storage": 1,
        "max_workgroup_threads": 1, "max_storage_binding": 1,
    });
    serde_json::from_value(json!({
        "schema": "wgtq.parity/1", "version": "0.0.0", "machine": "a machine",
        "legs": [
            { "label": "wgsl", "available": true, "reason": null, "adapter": adapter },
            { "label": "msl", "available": false, "reason": "needs <Metal>", "adapter": null },
        ],
        "summary": {
            "pass": 0, "expected_difference": 0, "skipped": 0, "finding": 0, "mismatch": 0,
            "compile_error": 0, "runtime_error": 0,
        },
        "cases": cases, "sources": [{ "leg": "wgsl", "label": "fwht", "sha256": "ab12" }],
        "ran_at": "2026-01-01T00:00:00Z", "timing": { "total_s": 1.0 },
    }))
    .unwrap()
}

/// Two kernels, and every status once.
fn mixed() -> Report {
    let mut cases = vec![json!({ "kernel": "fwht", "case": "d64 good", "results": [
        result("wgsl", "oracle", "pass", "within"), result("wgsl", "msl-host", "pass", "near"),
        result("msl-host", "oracle", "pass", "within"),
    ]})];
    for status in Status::ALL {
        let name = status.as_str();
        let reason = format!("because of {name}");
        cases.push(json!({ "kernel": "quantize_kv", "case": format!("d64 {name}"), "results": [
            result("wgsl", "oracle", name, &reason),
        ]}));
    }
    report(json!(cases))
}

/// What the script reads.
fn embedded(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

/// Whether every element that begins ends, in order, and every attribute is quoted.
fn balance(page: &str) -> Result<(), String> {
    const VOID: [&str; 4] = ["meta", "input", "br", "wbr"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!doctype html>").ok_or("no doctype")?;
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').ok_or("a tag does not end")?;
        rest = after;
        let name = tag.split_whitespace().next().unwrap_or_default();
        if tag.matches('"').count() % 2 != 0 {
            return Err(format!("a quote is missing: <{tag}>"));
        } else if let Some(name) = tag.strip_prefix('/') {
            let last = open.pop();
            if last != Some(name) {
                return Err(format!("</{name}> ends {last:?}"));
            }
        } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(format!("not a tag: <{tag}>"));
        } else if ["script", "style"].contains(&name) {
            rest = rest.split_once(&format!("</{name}>")).ok_or("raw text does not end")?.1;
        } else if !VOID.contains(&name) {
            open.push(name);
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("left open: {open:?}")) }
}

#[test]
fn the_balance_check_rejects_what_is_wrong() {
    assert_eq!(balance("<!doctype html><p class=\"a\">x<br></p>"), Ok(()));
    for wrong in ["<p>", "<p></b>", "</p>", "<p><b></p></b>", "<p class=\"a>x</p>", "a < b <p></p>"]
    {
        assert!(balance(&format!("<!doctype html>{wrong}")).is_err(), "{wrong}");
    }
}

#[test]
fn a_page_is_well_formed_and_alone() {
    for report in [mixed(), report(json!([]))] {
        let page = page(&report);
        assert_eq!(balance(&page), Ok(()));
        let alone = page.replace("http://www.w3.org/2000/svg", "");
        for fetches in ["http:", "https:", " src=", "url(", "@import", "fetch(", "import("] {
            assert!(!alone.contains(fetches), "{fetches}");
        }
    }
}

#[test]
fn every_case_and_every_failing_reason_is_in_the_page() {
    let report = mixed();
    let page = page(&report);
    for case in &report.cases {
        assert!(page.contains(&format!("<th scope=\"row\">{}</th>", case.case)), "{}", case.case);
        for failure in case.failures() {
            let shown = format!("<br>{}</li>", failure.reason);
            assert!(page.contains(&shown), "{}", failure.reason);
        }
    }
    for leg in ["needs &lt;Metal&gt;", "a GPU (vulkan, cpu, 1)", "did not run", "ab12"] {
        assert!(page.contains(leg), "{leg}");
    }
}

#[test]
fn a_long_list_of_failures_is_cut_and_the_data_have_all() {
    let case = |i| {
        let reason = format!("broken in way {i}");
        json!({ "kernel": "fwht", "case": format!("c{i}"), "results": [
            result("wgsl", "oracle", "mismatch", &reason),
        ]})
    };
    let count = LISTED + 5;
    let page = page(&report((0..count).map(case).collect()));
    assert!(page.contains(&format!("<summary>{} more</summary>", count - FIRST)));
    assert!(page.contains("The matrices below have all others."));
    let texts = embedded(&page)["texts"].to_string();
    for i in 0..count {
        assert!(texts.contains(&format!("\"broken in way {i}\"")), "{i}");
    }
}

#[test]
fn the_verdict_comes_first() {
    let visible = |page: &str| page.split_once("<main>").unwrap().1[..90].to_owned();
    // The counts come from the cases: the report says that nothing failed.
    let red = page(&mixed());
    assert!(visible(&red).contains("FAIL"), "{}", visible(&red));
    assert!(red.contains("<title>FAIL"));
    let good = json!([{ "kernel": "k", "case": "c", "results": [
        result("wgsl", "oracle", "pass", "within"),
    ]}]);
    let green = page(&report(good));
    assert!(visible(&green).contains("PASS") && !green.contains("FAIL"));
    assert!(page(&report(json!([]))).contains("nothing ran"));
}

#[test]
fn each_way_to_fail_alone_is_a_fail() {
    for status in Status::ALL.into_iter().filter(|s| !s.good()) {
        let page = page(&report(json!([{ "kernel": "k", "case": "c", "results": [
            result("wgsl", "oracle", "pass", "within"),
            result("msl", "oracle", status.as_str(), "why"),
        ]}])));
        assert!(page.contains("<title>FAIL"), "{status:?}");
        assert!(page.contains(&format!("<td class=\"{}", status.as_str())), "{status:?}");
    }
}

#[test]
fn hostile_text_stays_text() {
    let mut r = result(HOSTILE, HOSTILE, "mismatch", HOSTILE);
    r["findings"] = json!([{ "kind": HOSTILE, "message": HOSTILE, "place": HOSTILE }]);
    r["ways"][0]["way"] = json!(HOSTILE);
    r["histogram"][0]["label"] = json!(HOSTILE);
    let mut report = report(json!([{ "kernel": HOSTILE, "case": HOSTILE, "results": [r] }]));
    report.machine = HOSTILE.to_owned();
    report.version = HOSTILE.to_owned();
    report.ran_at = HOSTILE.to_owned();
    for leg in &mut report.legs {
        leg.label = HOSTILE.to_owned();
        leg.reason = Some(HOSTILE.to_owned());
        if let Some(adapter) = &mut leg.adapter {
            adapter.name = HOSTILE.to_owned();
        }
    }
    report.sources[0].label = HOSTILE.to_owned();
    report.sources[0].leg = HOSTILE.to_owned();
    report.sources[0].sha256 = HOSTILE.to_owned();

    let page = page(&report);
    assert_eq!(balance(&page), Ok(()));
    assert!(!page.contains("alert(1)</script>") && !page.contains("<script>alert"));
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains("<!-- "));
    let data = embedded(&page);
    assert_eq!(data["texts"][0], HOSTILE);
    assert_eq!(data["kernels"][0][0], HOSTILE);
    assert_eq!(data["labels"][0][0], HOSTILE);
}

#[test]
fn the_data_say_what_the_report_says() {
    let data = embedded(&page(&mixed()));
    // Legs against the oracle, then pairs, whatever the order in the report.
    let sides = json!([["wgsl", "oracle"], ["msl-host", "oracle"], ["wgsl", "msl-host"]]);
    assert_eq!(data["sides"], sides);
    for (i, status) in Status::ALL.into_iter().enumerate() {
        let r = &data["kernels"][1][1][i][1];
        assert_eq!(r[1], json!(0), "no such pair");
        let r = &r[0];
        let text = |i: &Value| data["texts"][i.as_u64().unwrap() as usize].clone();
        assert_eq!(data["statuses"][r[0].as_u64().unwrap() as usize][0], status.as_str());
        assert_eq!(text(&r[1]), format!("because of {}", status.as_str()));
        assert_eq!((&r[3], &r[4]), (&json!(1.5e-6), &json!(5e-6)));
        assert_eq!(r[5], json!([3, 0.25, 0.5]));
        assert_eq!((&data["labels"][0], &r[6]), (&json!(["equal", "1e-8"]), &json!([0, 0, 7])));
        assert_eq!((text(&r[7][0][0]), &r[7][1][1]), (json!("strict"), &Value::Null));
        assert_eq!(r[9], json!([1.23, 2.0]));
    }
}

#[test]
fn shades_are_even_on_a_logarithmic_scale() {
    let level = |share| grid::level(Some(share));
    assert_eq!([0.0, 5e-4, 5e-3, 5e-2, 0.2, 1.0, 1.1].map(level), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!([f64::INFINITY, f64::NAN].map(level), [6, 6]);
}

/// As many cases as the suite has, on eight comparisons.
#[test]
fn the_whole_suite_fits_into_four_megabytes() {
    let case = |i: u32| {
        let one = |leg: u32| {
            let reason =
                format!("nrmse 1.{leg}3e-7, worst index {i}: got 3.4028235e-1, want 3.4028236e-1");
            let mut r = result(&format!("leg{leg}"), "oracle", "pass", &reason);
            let bins = (0..11).map(|b| json!({ "label": format!("1e-{b}"), "count": i * b }));
            r["histogram"] = bins.collect();
            r["worst"] = json!({ "index": i, "got": 0.340282350778, "want": 0.340282365679 });
            r
        };
        json!({ "kernel": format!("kernel{}", i % 6), "case": format!("d256 srht heads32/8 n1000 of 4096 case {i}"),
            "results": (0..8).map(one).collect::<Vec<_>>() })
    };
    let page = page(&report((0..900).map(case).collect()));
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
}
