//! The expressions of a contract, evaluated: what a program in any language has to write once.

use std::collections::BTreeMap;

/// Values of names.
pub type Names = BTreeMap<String, u64>;

/// Evaluates `text`, or says what is wrong with it.
pub fn evaluate(text: &str, names: &Names) -> Result<u64, String> {
    let mut parser = Parser { rest: text.trim_start(), names };
    let value = parser.choice()?;
    if parser.rest.is_empty() { Ok(value) } else { Err(format!("{text}: at {}", parser.rest)) }
}

struct Parser<'a> {
    rest: &'a str,
    names: &'a Names,
}

impl<'a> Parser<'a> {
    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn need(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(format!("need {token} at {:?}", self.rest)) }
    }

    fn choice(&mut self) -> Result<u64, String> {
        let left = self.sum()?;
        let condition = if self.take("==") { u64::from(left == self.sum()?) } else { left };
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.choice()?;
        self.need(":")?;
        let no = self.choice()?;
        Ok(if condition != 0 { yes } else { no })
    }

    fn sum(&mut self) -> Result<u64, String> {
        let mut value = self.product()?;
        loop {
            let next = if self.take("+") {
                value.checked_add(self.product()?)
            } else if self.take("-") {
                value.checked_sub(self.product()?)
            } else {
                return Ok(value);
            };
            value = next.ok_or("overflow")?;
        }
    }

    fn product(&mut self) -> Result<u64, String> {
        let mut value = self.atom()?;
        while self.take("*") {
            value = value.checked_mul(self.atom()?).ok_or("overflow")?;
        }
        Ok(value)
    }

    fn atom(&mut self) -> Result<u64, String> {
        if self.take("(") {
            let value = self.choice()?;
            self.need(")")?;
            return Ok(value);
        }
        let word = self.word();
        if word == "ceil_div" {
            self.need("(")?;
            let a = self.choice()?;
            self.need(",")?;
            let b = self.choice()?;
            self.need(")")?;
            return if b == 0 { Err("division by zero".into()) } else { Ok(a.div_ceil(b)) };
        }
        if let Ok(number) = word.parse() {
            return Ok(number);
        }
        self.names.get(word).copied().ok_or_else(|| format!("no value for {word:?}"))
    }

    fn word(&mut self) -> &'a str {
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let end = self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }
}

#[test]
fn expressions_have_the_precedence_of_c() {
    let names = Names::from([("a".to_owned(), 3), ("n".to_owned(), 1)]);
    for (text, value) in [
        ("2 + a * 4", 14),
        ("(2 + a) * 4", 20),
        ("a - 1 - 1", 1),
        ("ceil_div(a * 5, 4)", 4),
        ("4 * (n == 1 ? a : 100)", 12),
        ("n == 2 ? 1 : n == 1 ? 7 : 9", 7),
    ] {
        assert_eq!(evaluate(text, &names), Ok(value), "{text}");
    }
    for wrong in ["b", "1 +", "a a", "(1", "ceil_div(1, 0)", "1 - 2", ""] {
        assert!(evaluate(wrong, &names).is_err(), "{wrong}");
    }
}
