import assert from "node:assert/strict";
import { test } from "node:test";
import { difference, type Expected, judge, parseExceptions, parseJunit } from "./judge.ts";

const xml = `<testsuites><testsuite><testcase name="[SynchronizedBeforeSuite]" status="passed"></testcase>
<testcase name="[It] [k8s.io] A &#34;quoted&#34; &amp; &lt;b&gt; [Serial]" classname="c" status="passed" time="1"></testcase>
<testcase name="[It] b" status="failed"><failure message="name=&quot;[It] x&quot;"></failure></testcase>
<testcase name="[It] c" status="skipped"><skipped></skipped></testcase>
<testcase name="[It] d" status="timedout"></testcase>
<testcase name="[It] [k8s.io] benchmark about pods" status="skipped"></testcase></testsuite></testsuites>`;

test("parseJunit: specs with their names as written and their fate", () => {
  assert.deepEqual(parseJunit(xml), [
    { name: '[k8s.io] A "quoted" & <b>', status: "passed" },
    { name: "b", status: "failed" },
    { name: "c", status: "skipped" },
    { name: "d", status: "failed" },
  ]);
});

test("judge: what is not on the list passes, what is on it does not, and the list names real specs", () => {
  const results = parseJunit(xml);
  const faults = (list: string): readonly string[] =>
    judge(results, parseExceptions(list), { specs: 4 }).faults;
  assert.deepEqual(faults("b | why\nc | why\n# comment\nd | why"), []);
  assert.deepEqual(faults("b | why\nd | why"), ["skipped: c"]);
  assert.deepEqual(faults('b | w\nc | w\nd | w\n[k8s.io] A "quoted" & <b> | w'), [
    'passes, but is on the list: [k8s.io] A "quoted" & <b>',
  ]);
  assert.deepEqual(faults('b | w\nc | w\nd | w\n?[k8s.io] A "quoted" & <b> | w'), []);
  assert.deepEqual(faults("b | w\n~c | w\nd | w"), []);
  assert.deepEqual(faults("~b | w\nc | w\nd | w"), ["fails where it does not skip itself: b"]);
  assert.deepEqual(faults("b | w\nc | w\nd | w\ne | w"), ["on the list, but critest has no such spec: e"]);
  assert.throws(() => parseExceptions("b"), /SPEC . REASON/);
});

test("judge: a spec that vanished is a fault, in a run of all and in one of some", () => {
  const list = parseExceptions("b | w\nc | w\nd | w");
  const faults = (expected: Expected | undefined, results = parseJunit(xml)): readonly string[] =>
    judge(results, list, expected).faults;
  assert.deepEqual(faults({ specs: 5 }), ["critest has 4 specs, where 5 are expected"]);
  assert.deepEqual(faults({ specs: 4, passes: 1 }), []);
  assert.deepEqual(faults({ specs: 4, passes: 2 }), ["1 specs pass, where 2 are expected"]);
  assert.deepEqual(faults(undefined), []);
  assert.deepEqual(faults(undefined, []), ["no spec passes"]);
});

test("difference: what passes in one report only", () => {
  const passed = parseJunit(xml);
  assert.deepEqual(difference(passed, []), ['[k8s.io] A "quoted" & <b>']);
  assert.deepEqual(difference(passed, passed), []);
});
