//! A report reduced to what stays the same from run to run on one machine, a line a case: for
//! keeping in a repository.

use serde_json::Value;

use super::report::Report;

impl Report {
    /// Without clocks, histograms, worst elements, single ways, shader hashes, and the reasons of
    /// results that are well. The format stays the same.
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.sources.clear();
        self.ran_at.clear();
        self.timing.total_s = 0.0;
        for result in self.cases.iter_mut().flat_map(|c| &mut c.results) {
            result.histogram.clear();
            result.ways.clear();
            (result.worst, result.timing) = (None, None);
            if result.status.good() {
                result.reason.clear();
            }
        }
        self
    }
}

/// JSON with a line a field, and a line an element of a list.
pub fn lines(report: &Report) -> serde_json::Result<String> {
    let Value::Object(fields) = serde_json::to_value(report)? else { return Ok(String::new()) };
    let field = |(name, value): (&String, &Value)| {
        let text = match value.as_array() {
            Some(items) if !items.is_empty() => {
                let items: Vec<String> = items.iter().map(Value::to_string).collect();
                format!("[\n{}\n]", items.join(",\n"))
            }
            _ => value.to_string(),
        };
        format!("{}: {text}", Value::from(name.as_str()))
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    Ok(format!("{{\n{}\n}}\n", fields.join(",\n")))
}
