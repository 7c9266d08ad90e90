//! Output turned into CRI log lines: `<RFC3339Nano> stdout|stderr P|F <content>\n`.

/// Content longer than this is cut into P lines.
const MAX_LINE: usize = 16 * 1024;

/// Cuts one output stream into log lines; keeps the start of an unfinished line.
pub struct Splitter {
    stream: &'static str,
    rest: Vec<u8>,
}

impl Splitter {
    pub fn new(stream: &'static str) -> Splitter {
        Splitter { stream, rest: Vec::new() }
    }

    /// Appends to `lines` every log line that `chunk` completes.
    pub fn feed(&mut self, chunk: &[u8], at_ns: i64, lines: &mut Vec<u8>) {
        let mut chunk = chunk;
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.take(&chunk[..end], at_ns, lines);
            let rest = std::mem::take(&mut self.rest);
            self.line(&rest, 'F', at_ns, lines);
            chunk = &chunk[end + 1..];
        }
        self.take(chunk, at_ns, lines);
    }

    /// The end of the output: an unfinished line is written as what it is, partial.
    pub fn finish(&mut self, at_ns: i64, lines: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.line(&rest, 'P', at_ns, lines);
        }
    }

    fn take(&mut self, mut part: &[u8], at_ns: i64, lines: &mut Vec<u8>) {
        while self.rest.len() + part.len() > MAX_LINE {
            let (now, later) = part.split_at(MAX_LINE - self.rest.len());
            self.rest.extend_from_slice(now);
            let full = std::mem::take(&mut self.rest);
            self.line(&full, 'P', at_ns, lines);
            part = later;
        }
        self.rest.extend_from_slice(part);
    }

    fn line(&self, content: &[u8], tag: char, at_ns: i64, lines: &mut Vec<u8>) {
        lines.extend_from_slice(timestamp(at_ns).as_bytes());
        lines.extend_from_slice(format!(" {} {tag} ", self.stream).as_bytes());
        lines.extend_from_slice(content);
        lines.push(b'\n');
    }
}

/// RFC 3339 with nanoseconds, UTC.
pub fn timestamp(ns: i64) -> String {
    let (seconds, nanos) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days since 1970-01-01, counting years from March so that a leap day is the last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> String {
        let (mut splitter, mut lines) = (Splitter::new("stdout"), Vec::new());
        for chunk in chunks {
            splitter.feed(chunk, 0, &mut lines);
        }
        splitter.finish(0, &mut lines);
        String::from_utf8(lines).unwrap().replace("1970-01-01T00:00:00.000000000Z stdout ", "")
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_came() {
        let text = b"one\n\ntwo three\nend";
        let whole = split(&[text]);
        assert_eq!(whole, "F one\nF \nF two three\nP end\n");
        for cut in 0..text.len() {
            assert_eq!(split(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn long_lines_are_cut_and_join_to_the_same() {
        let long = vec![b'x'; 3 * MAX_LINE + 5];
        let lines = split(&[&long, b"\n"]);
        let sizes: Vec<usize> = lines.lines().map(|l| l.len() - 2).collect();
        assert_eq!(sizes, [MAX_LINE, MAX_LINE, MAX_LINE, 5]);
        assert!(lines.lines().last().unwrap().starts_with("F "));
    }

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(timestamp(1_798_761_599_999_999_999), "2026-12-31T23:59:59.999999999Z");
    }
}
