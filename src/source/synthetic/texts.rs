//! Texts and metadata of rows.

use super::random::Stream;

/// Shortest text in bytes that is aimed at, and how much longer it may be; most are nearer to the shortest.
const TEXT_BYTES: (u64, u64) = (40, 540);

/// Codes of languages with their shares in 256.
const LANGUAGES: [(&str, u8); 5] = [("en", 160), ("de", 32), ("fr", 28), ("es", 24), ("ja", 12)];

/// A power of two of words, some with signs that CSV has to quote and some beyond ASCII. No line breaks: then a
/// line of CSV is a row.
const WORDS: [&str; 128] = [
    "vector",
    "index",
    "query",
    "table",
    "column",
    "channel",
    "message",
    "document",
    "chunk",
    "token",
    "model",
    "embedding",
    "distance",
    "neighbour",
    "graph",
    "layer",
    "search",
    "recall",
    "latency",
    "memory",
    "server",
    "client",
    "network",
    "packet",
    "socket",
    "stream",
    "buffer",
    "queue",
    "thread",
    "process",
    "kernel",
    "driver",
    "device",
    "storage",
    "block",
    "page",
    "cache",
    "commit",
    "branch",
    "merge",
    "release",
    "version",
    "package",
    "library",
    "function",
    "argument",
    "variable",
    "constant",
    "pointer",
    "object",
    "method",
    "class",
    "module",
    "import",
    "export",
    "compile",
    "execute",
    "debug",
    "profile",
    "measure",
    "the",
    "a",
    "of",
    "to",
    "in",
    "for",
    "with",
    "on",
    "by",
    "from",
    "is",
    "are",
    "was",
    "has",
    "can",
    "will",
    "may",
    "must",
    "and",
    "or",
    "fast",
    "slow",
    "large",
    "small",
    "new",
    "old",
    "open",
    "closed",
    "first",
    "last",
    "next",
    "near",
    "far",
    "exact",
    "random",
    "sorted",
    "empty",
    "full",
    "same",
    "other",
    "reads",
    "writes",
    "sends",
    "takes",
    "gives",
    "finds",
    "keeps",
    "drops",
    "builds",
    "joins",
    "however,",
    "first,",
    "then,",
    "again;",
    "note:",
    "(see below)",
    "\"quoted\"",
    "don't",
    "50%",
    "C++",
    "café",
    "naïve",
    "Zürich",
    "données",
    "größer",
    "ベクトル",
    "検索",
    "→",
];

/// Appends a text that names its cluster.
pub(super) fn write_content(cluster: u32, stream: &mut Stream, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"cluster ");
    write_number(u64::from(cluster), out);
    out.push(b':');
    let bits = stream.next();
    // The product of two uniform numbers: many short texts, few long ones, 180 bytes on average.
    let product = ((bits & 0xffff) * (bits >> 48)) >> 16;
    let end = start + (TEXT_BYTES.0 + ((TEXT_BYTES.1 * product) >> 16)) as usize;
    let mut words = 0u64;
    let mut left = 0;
    while out.len() < end {
        if left == 0 {
            words = stream.next();
            left = 9;
        }
        out.push(b' ');
        out.extend_from_slice(WORDS[words as usize % WORDS.len()].as_bytes());
        words >>= 7;
        left -= 1;
    }
    out.push(b'.');
}

/// Appends a JSON object: `{"row": 12, "cluster": 3, "lang": "en", "score": 0.123}`.
///
/// Language and score come from `bits`.
pub(super) fn write_metadata(row: u64, cluster: u32, bits: u64, out: &mut Vec<u8>) {
    let mut language = bits as u8;
    let mut code = LANGUAGES[0].0;
    for (name, share) in LANGUAGES {
        code = name;
        match language.checked_sub(share) {
            None => break,
            Some(rest) => language = rest,
        }
    }
    let score = ((bits >> 32) * 1000) >> 32;
    out.extend_from_slice(b"{\"row\": ");
    write_number(row, out);
    out.extend_from_slice(b", \"cluster\": ");
    write_number(u64::from(cluster), out);
    out.extend_from_slice(b", \"lang\": \"");
    out.extend_from_slice(code.as_bytes());
    out.extend_from_slice(b"\", \"score\": 0.");
    out.extend([score / 100, score / 10 % 10, score % 10].map(|digit| b'0' + digit as u8));
    out.push(b'}');
}

/// Appends a number in decimal.
fn write_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::synthetic::random::{Purpose, Streams};

    #[test]
    fn texts_name_their_cluster_and_vary_in_length() {
        let streams = Streams::new(3, Purpose::Row);
        let texts: Vec<String> = (0..10_000)
            .map(|row| {
                let mut text = Vec::new();
                write_content(17, &mut streams.at(row), &mut text);
                String::from_utf8(text).unwrap()
            })
            .collect();
        assert!(texts.iter().all(|text| text.starts_with("cluster 17: ") && !text.contains(['\n', '\0'])));
        let lengths: Vec<usize> = texts.iter().map(String::len).collect();
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        let (shortest, longest) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
        assert!(
            (150..250).contains(&mean) && *shortest >= 40 && *longest <= 600,
            "{shortest} {mean} {longest}"
        );
        assert!(*shortest < 50 && *longest > 450, "{shortest} {longest}");
    }

    #[test]
    fn metadata_is_json_with_the_rows_number() {
        let streams = Streams::new(3, Purpose::Row);
        for row in [0, 7, 10_000, u64::MAX] {
            let mut text = Vec::new();
            write_metadata(row, 5, streams.at(row).next(), &mut text);
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!((&value["row"], &value["cluster"]), (&row.into(), &5.into()));
            let score = value["score"].as_f64().unwrap();
            assert!((0.0..1.0).contains(&score) && value["lang"].as_str().unwrap().len() == 2, "{value}");
        }
    }

    #[test]
    fn languages_have_all_shares() {
        assert_eq!(LANGUAGES.iter().map(|(_, share)| u32::from(*share)).sum::<u32>(), 256);
    }
}
