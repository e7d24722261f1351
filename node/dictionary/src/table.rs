//! The rows of one CSV file, checked as a whole and sorted, in a compact form: about 60 bytes a row.
//!
//! All or nothing: a table exists only if every row keeps the model's rules, no code stands twice, every parent is there
//! and no code lies above itself.

use crate::Error;
use crate::csv::Rows;
use crate::model::{EntryRef, check_code, check_level, check_name, limits};
use std::io::Read;

/// Texts lie in chunks of this size, so that a growing table is never copied.
const CHUNK_BYTES: usize = 1 << 20;
/// Most distinct levels in a file.
const LEVELS: usize = 256;
/// Stands for «no parent» in a list of row numbers.
const TOP: u32 = u32::MAX;

/// A row's texts: code, name and parent lie one after the other at `offset` of `chunk`.
#[derive(Clone, Copy)]
struct Row {
    line: u32,
    offset: u32,
    chunk: u16,
    name_bytes: u16,
    code_bytes: u8,
    parent_bytes: u8,
    level: u8,
}

/// A code set as a file gives it.
pub(crate) struct Table {
    chunks: Vec<String>,
    rows: Vec<Row>,
    levels: Vec<String>,
}

impl Table {
    /// Reads and checks a file.
    pub(crate) fn read(source: &mut dyn Read) -> Result<Self, Error> {
        let mut rows = Rows::new(source)?;
        let mut table = Self { chunks: Vec::new(), rows: Vec::new(), levels: Vec::new() };
        while let Some(fields) = rows.next()? {
            let checked = table.check(fields);
            let [code, name, level, parent] = fields.each_ref().map(String::as_str);
            let added = checked.and_then(|()| table.add(code, name, level, parent));
            match added {
                Ok(row) => table.rows.push(Row { line: rows.line(), ..row }),
                Err(reason) => return Err(rows.refuse(reason)),
            }
        }
        if table.rows.is_empty() {
            return Err(rows.refuse("there are no rows"));
        }
        table.sort()?;
        table.check_hierarchy()?;
        Ok(table)
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The rows in order of their codes, as entries of `set`.
    pub(crate) fn entries<'t>(&'t self, set: &'t str) -> impl Iterator<Item = EntryRef<'t>> {
        self.rows.iter().map(move |row| {
            let (code, name, parent) = self.texts(row);
            EntryRef { set, code, name, level: &self.levels[usize::from(row.level)], parent }
        })
    }

    fn check(&self, [code, name, level, parent]: &[String; 4]) -> Result<(), String> {
        if self.len() == limits::ENTRIES {
            return Err(format!("more than {} rows", limits::ENTRIES));
        }
        let parent_checked = if parent.is_empty() { Ok(()) } else { check_code("parent", parent) };
        let checked = check_code("code", code)
            .and_then(|()| check_name(name))
            .and_then(|()| check_level(level))
            .and(parent_checked);
        checked.map_err(|error| error.to_string())
    }

    /// Stores the texts of a row whose lengths have been checked.
    fn add(&mut self, code: &str, name: &str, level: &str, parent: &str) -> Result<Row, String> {
        let level = match self.levels.iter().position(|known| known == level) {
            Some(known) => known,
            None if self.levels.len() == LEVELS => return Err(format!("more than {LEVELS} different levels")),
            None => {
                self.levels.push(level.into());
                self.levels.len() - 1
            }
        };
        let bytes = code.len() + name.len() + parent.len();
        if self.chunks.last().is_none_or(|chunk| chunk.len() + bytes > CHUNK_BYTES) {
            self.chunks.push(String::with_capacity(CHUNK_BYTES));
        }
        let chunk = self.chunks.len() - 1;
        let text = self.chunks.last_mut().expect("there is a chunk with room for the row");
        let offset = text.len();
        text.extend([code, name, parent]);
        let fits = "lengths were checked against the model's limits";
        Ok(Row {
            line: 0,
            offset: u32::try_from(offset).expect(fits),
            chunk: u16::try_from(chunk).expect("8 Mi rows of 640 bytes lie in fewer than 2^16 chunks"),
            name_bytes: u16::try_from(name.len()).expect(fits),
            code_bytes: u8::try_from(code.len()).expect(fits),
            parent_bytes: u8::try_from(parent.len()).expect(fits),
            level: u8::try_from(level).expect("there are at most 256 levels"),
        })
    }

    fn texts(&self, row: &Row) -> (&str, &str, &str) {
        let text = &self.chunks[usize::from(row.chunk)][row.offset as usize..];
        let (code, text) = text.split_at(usize::from(row.code_bytes));
        let (name, text) = text.split_at(usize::from(row.name_bytes));
        (code, name, &text[..usize::from(row.parent_bytes)])
    }

    fn code(&self, row: &Row) -> &str {
        self.texts(row).0
    }

    /// Sorts by code and refuses a code that stands twice.
    fn sort(&mut self) -> Result<(), Error> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_unstable_by(|a, b| self.code(a).cmp(self.code(b)).then(a.line.cmp(&b.line)));
        let twice = rows.windows(2).find(|pair| self.code(&pair[0]) == self.code(&pair[1]));
        if let Some([first, second]) = twice {
            let reason = format!("code «{}» stands on line {} already", self.code(second), first.line);
            return Err(Error::Row { line: second.line, reason });
        }
        self.rows = rows;
        Ok(())
    }

    /// Refuses a parent that is not there and a code that lies above itself.
    fn check_hierarchy(&self) -> Result<(), Error> {
        let parents = self.parents()?;
        // 0: not seen; otherwise the number of the walk that passed here first.
        let mut seen = vec![0u32; parents.len()];
        for start in 0..parents.len() {
            let walk = u32::try_from(start + 1).expect("there are fewer rows than 2^32");
            let mut at = start;
            while seen[at] == 0 {
                seen[at] = walk;
                if parents[at] == TOP {
                    break;
                }
                at = parents[at] as usize;
                if seen[at] == walk {
                    let row = &self.rows[at];
                    let reason = format!("code «{}» lies above itself", self.code(row));
                    return Err(Error::Row { line: row.line, reason });
                }
            }
        }
        Ok(())
    }

    /// For each row the number of its parent's row.
    fn parents(&self) -> Result<Vec<u32>, Error> {
        let mut parents = Vec::with_capacity(self.rows.len());
        // Neighbours mostly share their parent.
        let mut last = ("", TOP);
        for row in &self.rows {
            let (code, _, parent) = self.texts(row);
            if parent.is_empty() {
                parents.push(TOP);
                continue;
            }
            if parent != last.0 {
                let found = self.rows.binary_search_by(|other| self.code(other).cmp(parent));
                let Ok(found) = found else {
                    let reason = format!("the parent «{parent}» of code «{code}» is not in the file");
                    return Err(Error::Row { line: row.line, reason });
                };
                last = (parent, u32::try_from(found).expect("there are fewer rows than 2^32"));
            }
            parents.push(last.1);
        }
        Ok(parents)
    }
}
