//! Declarations that differ in their address spaces only.
//!
//! Metal code may overload a member function, or specialise a record, once for each address
//! space. The host has one address space, so such a set becomes the same declaration several
//! times over; one of them stays.

use std::collections::HashMap;

use super::edit::Edit;
use super::outline::{Item, ItemKind};
use super::unit::Unit;

/// Takes the surplus declarations out of `items`; returns the edits that blank them.
pub(super) fn remove_duplicates(unit: &Unit<'_>, items: &mut Vec<Item>) -> Vec<Edit> {
    let mut sets: HashMap<_, Vec<usize>> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        if item.head.clone().any(|t| unit.is_address_space(t)) {
            let key = (item.scope.clone(), item.kind, signature(unit, item));
            sets.entry(key).or_default().push(i);
        }
    }
    let mut surplus = Vec::new();
    for set in sets.values() {
        let heads = || set.iter().filter_map(|i| Some((*i, items.get(*i)?)));
        // The thread version is the one written for plain memory, hence the best for the host.
        let for_thread =
            heads().find(|(_, item)| item.head.clone().any(|t| unit.text(t) == "thread"));
        let kept = for_thread.or_else(|| heads().next()).map(|(i, _)| i);
        surplus
            .extend(heads().filter(|(i, _)| Some(*i) != kept).map(|(_, item)| item.tokens.clone()));
    }
    surplus.sort_by_key(|tokens| tokens.start);
    items.retain(|item| {
        !surplus.iter().any(|s| s.start <= item.tokens.start && item.tokens.end <= s.end)
    });
    surplus.into_iter().map(|tokens| Edit::blank(unit.span(tokens))).collect()
}

/// Blanks `constant` behind a parameter list where C++ does not take the `const` that it is to
/// the host: after another `const`, and on constructors.
pub(super) fn unify_qualifiers(unit: &Unit<'_>, items: &[Item]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for item in items {
        let Some(parameters) = &item.parameters else { continue };
        let constructs = item.is_constructor(unit);
        for i in parameters.end..item.head.end {
            if unit.text(i) == "constant" && (constructs || unit.text_before(i) == "const") {
                edits.push(Edit::blank(unit.span(i..i + 1)));
            }
        }
    }
    edits
}

/// The head as the host's compiler will see it.
fn signature<'a>(unit: &Unit<'a>, item: &Item) -> Vec<&'a str> {
    let constructs = item.is_constructor(unit);
    let mut words: Vec<_> = item
        .head
        .clone()
        .filter_map(|i| match unit.text(i) {
            "constant" if constructs && unit.text_before(i) == ")" => None,
            "constant" => Some("const"),
            _ if unit.is_address_space(i) => None,
            text => Some(text),
        })
        .collect();
    words.dedup_by(|b, a| b == a && *a == "const");
    // A forward declaration must not stand for a definition, whatever its head; the kind in the
    // key sees to that for functions, and this mark for records.
    if item.kind == ItemKind::Record {
        words.push("{");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::outline::outline;
    use super::*;

    #[test]
    fn one_of_each_set_stays_and_thread_is_preferred() {
        let source = "template <class T> struct E<device T*> { device T* p; };\
            template <class T> struct E<thread T*> { thread T* p; };\
            struct A { float g(int i) const device { return 1; } float g(int i) const constant { return 2; }\
            float h(int) { return 3; } };\
            void f(device float* x) {} void f(device int* x) {}";
        let unit = Unit::parse(source).unwrap();
        let mut items = outline(&unit);
        let before = items.len();
        let edits = remove_duplicates(&unit, &mut items);
        let blanked: Vec<_> = edits.iter().map(|e| &source[e.span.clone()]).collect();
        assert_eq!(
            blanked,
            [
                "template <class T> struct E<device T*> { device T* p; };",
                "float g(int i) const constant { return 2; }",
            ]
        );
        // The specialisation goes with its member.
        assert_eq!(items.len(), before - 3);
    }

    #[test]
    fn constant_and_const_qualifiers_unite() {
        let source = "struct A { int f(int) const constant { return 1; } int g(int) constant; \
            A() constant = default; };";
        let unit = Unit::parse(source).unwrap();
        let edits = unify_qualifiers(&unit, &outline(&unit));
        let places: Vec<_> = edits.iter().map(|e| &source[e.span.start - 4..e.span.end]).collect();
        assert_eq!(places, ["nst constant", "A() constant"]);
    }
}
