/** The table of docs/security.md: each of the 26 classes has a row, and each test that a row names is there. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

const root = join(import.meta.dirname, "..");
const rows = readFileSync(join(root, "docs/security.md"), "utf8")
  .split("\n")
  .filter((line) => /^\| \d+ \|/.test(line))
  .map((line) => line.split(" | ").map((cell) => cell.replace(/^\| | \|$/g, "")));

/** The numbers before a title's first comma: "8 and 9, labels ..." */
function numbersOf(title: string): readonly number[] {
  return /^(\d+(?: and \d+)*), /.exec(title)?.[1]?.split(" and ").map(Number) ?? [];
}

/** Titles of tests and keys of tables of cases, as they are written. */
function titlesOf(text: string): readonly string[] {
  return [...text.matchAll(/"(\d+(?: and \d+)*, [^"\n]+)"/g)].map(([, title = ""]) => title);
}

const classes = Array.from({ length: 26 }, (_, n) => n + 1);

test("the table has the classes 1 to 26 in order, each with its guard", () => {
  assert.deepEqual(
    rows.map(([number]) => Number(number)),
    classes,
  );
  for (const [number, what = "", guard = ""] of rows)
    assert.ok(what.length > 10 && guard.length > 20, `class ${number}`);
});

for (const number of classes) {
  test(`class ${number} has a test of that number, which names a CVE or says that there is none`, () => {
    const [, , , where = ""] = rows.find(([first]) => Number(first) === number) ?? [];
    const files = [...where.matchAll(/`([^`]+\.ts)`/g)].map(([, file = ""]) => file);
    assert.ok(files.length > 0, `docs/security.md names no file for class ${number}`);
    for (const file of files) {
      const titles = titlesOf(readFileSync(join(root, file), "utf8")).filter((title) =>
        numbersOf(title).includes(number),
      );
      assert.ok(titles.length > 0, `${file} has no test of class ${number}`);
      for (const title of titles) assert.match(title, /CVE-\d{4}-\d{4,}|no CVE|#\d+/, title);
    }
  });
}
