//! What becomes of JSON, case by case: good, bad, and what only a document store minds.
//!
//! The outcomes are stated here, from RFC 8259 and from DynamoDB's limits, and not taken from any parser.

use std::collections::BTreeSet;

use migrate::mapping::{BlobFacts, EntityId, MappedItem, Mapper, Quarantine, Reason};

const PLAN: &str = r#"
[source]
store = "json"
[target]
table = "json"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "document"
blobs = "{name}"
[[entity.item]]
PK = "{{ name }}"
SK = "DOCUMENT"
body = "nested:document"
"#;

/// Held without change.
#[rustfmt::skip]
const HELD: &[&[u8]] = &[
    b"null", b"true", b"false", b"0", b"\"a\"", b"\"\"", b"[]", b"{}", b" [] ", b"\t\n\r []\r\n\t", b"[\n]",
    b"{ }", b"[1]\n", b"{\"a\":1}\r\n", b"[0]", b"[-0]", b"[0.0]", b"[-0.0]", b"[1]", b"[-1]", b"[10]",
    b"[123]", b"[1.5]", b"[-1.5]", b"[0.1]", b"[0.00001]", b"[1e1]", b"[1E1]", b"[1e+1]", b"[1E+1]", b"[1e-1]",
    b"[1E-1]", b"[0e1]", b"[0e+1]", b"[0e-1]", b"[0E0]", b"[1.0e5]", b"[20e1]", b"[1e00]", b"[1e01]", b"[1.50]",
    b"[9007199254740993]", b"[123.456e78]", b"[1e125]", b"[-1e125]", b"[9.9999e125]", b"[1e-130]", b"[-1e-130]",
    b"[12345678901234567890123456789012345678]", b"[0.12345678901234567890123456789012345678]",
    b"[0e999999999999]", b"[-0e-999999]", b"[10000000000000000000000000000000000000000000000]",
    b"[18446744073709551616]", b"[-9223372036854775809]", b"[1E125]", b"[0.1e126]", b"[\"a\"]", b"[\" \"]",
    b"[\"\\\"\"]", b"[\"\\\\\"]", b"[\"\\/\"]", b"[\"/\"]", b"[\"\\b\"]", b"[\"\\f\"]", b"[\"\\n\"]",
    b"[\"\\r\"]", b"[\"\\t\"]", b"[\"\\u0041\"]", b"[\"\\u00e9\"]", b"[\"\\u00E9\"]", b"[\"\\u0000\"]",
    b"[\"\\u001f\"]", b"[\"\\uFFFF\"]", b"[\"\\uFFFE\"]", b"[\"\\u2028\"]", b"[\"\\ud83e\\udda6\"]",
    b"[\"\\uD83E\\uDDA6\"]", b"[\"\\uDBFF\\uDFFF\"]", b"[\"\\uD800\\uDC00\"]", b"[\"\xc3\xa9\"]",
    b"[\"e\xcc\x81\"]", b"[\"\xf0\x9f\xa6\xa6\"]", b"[\"\xe2\x80\xa8\"]", b"[\"\xe2\x80\xa9\"]",
    b"[\"\xef\xbb\xbf\"]", b"[\"\xef\xbf\xbd\"]", b"[\"\xef\xbf\xbf\"]", b"[\"\xf4\x8f\xbf\xbf\"]",
    b"[\"\x7f\"]", b"[\"\xc2\x80\"]", b"[\"'\"]", b"[\"//\"]", b"[\"/* */\"]", b"[\"#\"]",
    b"[\"\\u005Cu0041\"]", b"[\"\\\\u0041\"]", b"[\"null\"]", b"[\"{}\"]", b"[\"[1,2]\"]",
    b"[\"\xd0\xb6\xd1\x83\xd0\xba\"]", b"[\"\xe6\xbc\xa2\xe5\xad\x97\"]", b"[\"\\u0022\"]", b"[ 1 ,2\t,\n3 ]",
    b"[[],[[]],{}]", b"[null,true,false,0,\"\",[],{}]", b"[\"a\",1]", b"[[[[1]]]]", b"[1,[2,[3,[4]]]]", b"[ ]",
    b"[{\"a\":[{}]}]", b"{\"a\":1}", b"{\"a\":1,\"b\":2}", b"{ \"a\" : 1 , \"b\" : [ ] }",
    b"{\"a\":{\"b\":{\"c\":{}}}}", b"{\"A\":1,\"a\":2}", b"{\"\xc3\xa9\":1,\"e\xcc\x81\":2}",
    b"{\"\\u0061\":1}", b"{\"a b\":1}", b"{\"a.b\":1,\"a/b\":2,\"a~b\":3}", b"{\"\\n\":1}", b"{\"\\u0000\":1}",
    b"{\"null\":null,\"true\":true}", b"{\"__proto__\":{\"a\":1}}",
    b"{\"\xf0\x9f\xa6\xa6\":\"\xf0\x9f\xa6\xa6\"}", b"{\"a\":\"\",\"b\":null,\"c\":[],\"d\":{}}",
    b"{\"a\":1,\"b\":{\"a\":1}}", b"[{\"a\":1},{\"a\":1}]", b"{\"_source\":1}", b"{\"$ref\":\"#\"}",
    b"{\"ttl\":1}", b"[[[[[]]]]]", b"{\"a\":{\"a\":{\"a\":{\"a\":{}}}}}",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
];

/// Not one JSON document in UTF-8.
#[rustfmt::skip]
const NOT_JSON: &[&[u8]] = &[
    b"", b"  ", b"\n", b"nul", b"nulll", b"tru", b"truee", b"True", b"TRUE", b"False", b"NULL", b"Null",
    b"undefined", b"None", b"nil", b"a", b"<html>", b"<?xml?>", b"---\na: 1", b"a=1", b"a,b\n1,2", b"{}{}",
    b"[][]", b"{} {}", b"[] []", b"1 2", b"null null", b"{}x", b"[]x", b"{},", b"[],", b"1,", b"{}]", b"[]}",
    b"{}//", b"{}/**/", b"# x\n[]", b"// x\n[]", b"/* x */[]", b"[]/", b"[]\x00", b"\x00[]", b"\x00", b"\x0c[]",
    b"\x0b[]", b"\xc2\xa0[]", b"[]\xc2\xa0", b"\xe2\x80\x83[]", b"\xe2\x81\xa0[]", b"\xe3\x80\x80[]",
    b"[\xc2\xa01]", b"\xef\xbb\xbf[]", b"\xef\xbb\xbf", b"[]\xef\xbb\xbf", b"*", b"@", b"$", b"&", b"\\",
    b"\\u0020[]", b"`[]`", b"(1)", b"()", b";", b"[];", b"=", b"callback([])", b")]}',\n[]",
    b"[\x00\"\x00\xe9\x00\"\x00]\x00", b"\x00[\x00\"\x00\xe9\x00\"\x00]",
    b"[\x00\x00\x00\"\x00\x00\x00\xe9\x00\x00\x00\"\x00\x00\x00]\x00\x00\x00",
    b"\x00\x00\x00[\x00\x00\x00\"\x00\x00\x00\xe9\x00\x00\x00\"\x00\x00\x00]", b"\xff\xfe[\x00]\x00",
    b"\xfe\xff\x00[\x00]", b"[\"\x80\"]", b"[\"\xbf\"]", b"[\"\xc0\x80\"]", b"[\"\xc1\xbf\"]",
    b"[\"\xe0\x80\x80\"]", b"[\"\xe0\x9f\xbf\"]", b"[\"\xed\xa0\x80\"]", b"[\"\xed\xbf\xbf\"]",
    b"[\"\xed\xa0\xbd\xed\xb8\x80\"]", b"[\"\xf0\x80\x80\x80\"]", b"[\"\xf0\x8f\xbf\xbf\"]",
    b"[\"\xf4\x90\x80\x80\"]", b"[\"\xf5\x80\x80\x80\"]", b"[\"\xf8\x88\x80\x80\x80\"]", b"[\"\xfe\"]",
    b"[\"\xff\"]", b"[\"\xc3\"]", b"[\"\xe2\x82\"]", b"[\"\xf0\x9f\xa6\"]", b"[\"\xe9\"]", b"[\"a\xe9b\"]",
    b"[\xff]", b"\xff[]", b"[]\xff", b"{\"\xff\":1}", b"[01]", b"[-01]", b"[00]", b"[-00]", b"[007]", b"[1.]",
    b"[-1.]", b"[.5]", b"[-.5]", b"[+1]", b"[+0]", b"[1e]", b"[1e+]", b"[1e-]", b"[1E]", b"[1E+]", b"[1.e1]",
    b"[-]", b"[--1]", b"[-+1]", b"[+-1]", b"[1-]", b"[1-2]", b"[1+2]", b"[-a]", b"[0x1]", b"[0X1F]", b"[0b1]",
    b"[0o7]", b"[1_000]", b"[1,000,]", b"[NaN]", b"[-NaN]", b"[Infinity]", b"[-Infinity]", b"[inf]", b"[1a]",
    b"[1eE2]", b"[1e1e1]", b"[1e1.5]", b"[0.1.2]", b"[0.e1]", b"[0e]", b"[0.]", b"[2.e3]", b"[0.3e]",
    b"[0.3e+]", b"[1 000]", b"[1f]", b"[1L]", b"[1n]", b"[\xd9\xa3]", b"[\xef\xbc\x92]", b"[1e\xd9\xa3]",
    b"[- 1]", b"[1 .5]", b"[1. 5]", b"[1e 5]", b"[1 e5]", b"[$1]", b"[1%]", b"[1/2]", b"[0,5x]", b"-", b"+1",
    b"01", b"1.", b".1", b"1e", b"2.", b"-.", b"0x0", b"[\"\x00\"]", b"[\"\x01\"]", b"[\"\x02\"]",
    b"[\"\x03\"]", b"[\"\x04\"]", b"[\"\x05\"]", b"[\"\x06\"]", b"[\"\x07\"]", b"[\"\x08\"]", b"[\"\t\"]",
    b"[\"\n\"]", b"[\"\x0b\"]", b"[\"\x0c\"]", b"[\"\r\"]", b"[\"\x0e\"]", b"[\"\x0f\"]", b"[\"\x10\"]",
    b"[\"\x11\"]", b"[\"\x12\"]", b"[\"\x13\"]", b"[\"\x14\"]", b"[\"\x15\"]", b"[\"\x16\"]", b"[\"\x17\"]",
    b"[\"\x18\"]", b"[\"\x19\"]", b"[\"\x1a\"]", b"[\"\x1b\"]", b"[\"\x1c\"]", b"[\"\x1d\"]", b"[\"\x1e\"]",
    b"[\"\x1f\"]", b"[\"\\a\"]", b"[\"\\x41\"]", b"[\"\\0\"]", b"[\"\\v\"]", b"[\"\\e\"]", b"[\"\\'\"]",
    b"[\"\\U0041\"]", b"[\"\\u\"]", b"[\"\\u1\"]", b"[\"\\u12\"]", b"[\"\\u123\"]", b"[\"\\u12G4\"]",
    b"[\"\\u 041\"]", b"[\"\\u-041\"]", b"[\"\\u{41}\"]", b"[\"\\ud83e\"]", b"[\"\\udda6\"]",
    b"[\"\\ud800\\ud800\"]", b"[\"\\udc00\\ud800\"]", b"[\"\\ud800x\"]", b"[\"\\ud800\\n\"]",
    b"[\"\\ud800\\u0041\"]", b"[\"\\uD800\\u\"]", b"[\"\\\xc3\xa9\"]", b"[\"\\ \"]", b"[\"\\\n\"]", b"[\"a",
    b"[\"", b"\"", b"\"a", b"\"\\", b"[\"\\\"]", b"[\"a\\", b"['a']", b"'a'", b"[a]", b"[`a`]",
    b"[\xe2\x80\x9ca\xe2\x80\x9d]", b"[\"a\"\"b\"]", b"[\"a\" \"b\"]", b"[\"a'", b"[\\u0022a\\u0022]",
    b"[\"a\"b]", b"[b\"a\"]", b"\"a\"b", b"[\"\\u00\"", b"[\"\\ud83e\\u", b"[", b"]", b"[[", b"[]]", b"[[]",
    b"[1", b"[1,", b"[1,2", b"[,", b"[,]", b"[,1]", b"[1,]", b"[1,,2]", b"[1,2,]", b"[,,]", b"[1 2]", b"[1;2]",
    b"[1:2]", b"[1}", b"{1]", b"[}", b"[1]]", b"[1],", b"[1]{}", b"[a", b"[\n1\n,2", b"[1,\n]", b"[1 null]",
    b"[null true]", b"[\"a\" 1]", b"[...]", b"[1...3]", b"[*]", b"[undefined]", b"[True]", b"[nul]", b"[tru]",
    b"[fals]", b"[nulll]", b"[NULL]", b"[,null]", b"[:1]", b"[\"a\":1]", b"[\"\",]", b"[\"\"", b"[1]1", b"][",
    b"[x]", b"[[1]", b"[{}", b"[{]", b"[{\"a\":1]", b"[#]", b"[/**/1]", b"[1 /*x*/]", b"[1]//x", b"[1]#x",
    b"[(1)]", b"[new Date()]", b"[<b>]", b"[/a/]", b"{", b"}", b"{{", b"{}}", b"{{}", b"{\"a\"", b"{\"a\":",
    b"{\"a\":1", b"{\"a\":1,", b"{\"a\":1,}", b"{\"a\":1,\"b\"", b"{\"a\":1,\"b\":", b"{,}", b"{,\"a\":1}",
    b"{\"a\":1,,\"b\":2}", b"{\"a\":1 \"b\":2}", b"{\"a\" 1}", b"{\"a\":}", b"{\"a\"}", b"{\"a\",1}",
    b"{\"a\"::1}", b"{\"a\":1:2}", b"{\"a\"=1}", b"{\"a\"=>1}", b"{\"a\":1;\"b\":2}", b"{a:1}", b"{'a':1}",
    b"{a}", b"{1:2}", b"{null:1}", b"{true:1}", b"{[1]:2}", b"{{}:1}", b"{\"a\":a}", b"{\"a\":1]",
    b"{\"a\":[1}", b"{\"a\":1}}", b"{\"a\":1}]", b"{\"a\":1},", b"{\"a\":1}x", b"{\"a\":1}#x", b"{\"a\":1}//x",
    b"{/*x*/\"a\":1}", b"{\"a\":/*x*/1}", b"{\"a\":1/*x*/}", b"{\"a\":\"b\" \"c\"}", b"{\"a\":\"b\"c}",
    b"{\"a\":1,\"b\"}", b"{\"a\":1,2}", b"{:1}", b"{:}", b"{\"\":}", b"{\"\\ud83e\":1}", b"{\"\\x41\":1}",
    b"{\"a\n\":1}", b"{...a}", b"{[\"a\"]:1}", b"{\"a\":undefined}", b"{\"a\":NaN}", b"{\"a\":01}",
    b"{\"a\":+1}", b"{\"a\":.5}", b"{\"a\":\"\t\"}", b"{\"a\":function(){}}", b"{\"a\":1,\n}",
    b"{\"a\" \"b\":1}", b"{\"a\":1 , , }", b"{\"a\"\x00:1}",
];

/// JSON, with a number that DynamoDB can't hold.
#[rustfmt::skip]
const NUMBER: &[&[u8]] = &[
    b"[1e126]", b"[-1e126]", b"[1e400]", b"[-1e400]", b"[1e-131]", b"[1e-400]", b"[10e125]", b"[0.1e-130]",
    b"[123456789012345678901234567890123456789]", b"[0.123456789012345678901234567890123456789]",
    b"[1234567890123456789012345678901234567890.5]", b"[1e99999999999999999999]", b"[1e-99999999999999999999]",
    b"[1.7976931348623157e308]", b"[5e-324]", b"[9.99999999999999999999999999999999999999e125]", b"1e126",
    b"{\"a\":{\"b\":[1e126]}}",
];

/// An object with the same name twice.
#[rustfmt::skip]
const DUPLICATE_NAME: &[&[u8]] = &[
    b"{\"a\":1,\"a\":2}", b"{\"a\":1,\"a\":1}", b"{\"a\":1,\"\\u0061\":2}", b"{\"a\":{\"b\":1,\"b\":2}}",
    b"[{\"a\":1,\"a\":1}]", b"{\"a\":1,\"b\":2,\"a\":3}", b"{\"\":1,\"\":2}", b"{\"\xc3\xa9\":1,\"\\u00e9\":1}",
    b"{\"a\":null,\"a\":null}", b"{\"\xf0\x9f\xa6\xa6\":1,\"\\ud83e\\udda6\":2}",
];

/// A name that DynamoDB refuses.
#[rustfmt::skip]
const ATTRIBUTE_NAME: &[&[u8]] = &[
    b"{\"\":1}", b"{\"a\":{\"\":1}}", b"[{\"\":[]}]",
];

fn mapper() -> Mapper {
    Mapper::new(&toml::from_str(PLAN).unwrap()).unwrap()
}

fn map(mapper: &Mapper, body: &[u8]) -> Result<Vec<MappedItem>, Quarantine> {
    let pathname = "a".into();
    let now = "2026-02-01T00:00:00Z".parse().unwrap();
    mapper.map(EntityId(0), BlobFacts { pathname: &pathname, uploaded_at: now }, body, now)
}

fn refused(mapper: &Mapper, body: &[u8]) -> Option<Reason> {
    map(mapper, body).err().map(|quarantine| quarantine.reason)
}

#[test]
fn each_case_has_its_outcome() {
    let mapper = mapper();
    let mut wrong = Vec::new();
    let all = [
        (HELD, None),
        (NOT_JSON, Some(Reason::NotJson)),
        (NUMBER, Some(Reason::Number)),
        (DUPLICATE_NAME, Some(Reason::DuplicateName)),
        (ATTRIBUTE_NAME, Some(Reason::AttributeName)),
    ];
    let mut seen = BTreeSet::new();
    for (cases, expected) in all {
        for body in cases {
            assert!(seen.insert(*body), "{:?} is there twice", String::from_utf8_lossy(body));
            let actual = refused(&mapper, body);
            if actual != expected {
                wrong.push(format!("{:?}: {actual:?}, not {expected:?}", String::from_utf8_lossy(body)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() > 500);
}

#[test]
fn what_is_held_comes_back_as_it_was() {
    let mapper = mapper();
    for body in HELD {
        let items = map(&mapper, body).unwrap();
        let document = mapper.decode(EntityId(0), body).unwrap();
        let skeleton = mapper.skeleton(EntityId(0), &document, &items);
        let rebuilt = mapper.rebuild(EntityId(0), &[&items[0].item], &skeleton).unwrap();
        assert!(rebuilt.semantically_eq(&document), "{:?}: {rebuilt:?}", String::from_utf8_lossy(body));
    }
}

#[test]
fn what_is_not_json_names_a_byte_of_it() {
    let mapper = mapper();
    for body in NOT_JSON {
        let offset = map(&mapper, body).unwrap_err().offset.unwrap();
        assert!(offset <= body.len() as u64, "{:?}: {offset}", String::from_utf8_lossy(body));
    }
}

#[test]
fn thirty_two_levels_are_held_the_item_among_them_and_no_more() {
    let mapper = mapper();
    let lists = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let objects = |levels: usize| "{\"a\":".repeat(levels - 1) + "{}" + &"}".repeat(levels - 1);
    for levels in 1..=31 {
        assert_eq!(refused(&mapper, lists(levels).as_bytes()), None, "{levels}");
        assert_eq!(refused(&mapper, objects(levels).as_bytes()), None, "{levels}");
    }
    for levels in [32, 33, 34, 35, 100, 1_000, 10_000, 1_000_000] {
        assert_eq!(refused(&mapper, lists(levels).as_bytes()), Some(Reason::Depth), "{levels}");
        assert_eq!(refused(&mapper, objects(levels).as_bytes()), Some(Reason::Depth), "{levels}");
        assert_eq!(refused(&mapper, "[{\"a\":".repeat(levels).as_bytes()), Some(Reason::Depth), "{levels}");
    }
}
