import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCdiFile } from "./cdi-file.ts";
import { parseQualifiedName } from "./device-name.ts";

const file = (more: object = {}, edits: object = { env: ["A=1"] }): string =>
  JSON.stringify({
    cdiVersion: "1.1.0",
    kind: "vendor.com/class",
    devices: [{ name: "a", containerEdits: edits }],
    ...more,
  });

test("parseCdiFile: what is left out is filled in", () => {
  const { kind, edits, devices } = parseCdiFile(
    file(
      { containerEdits: { additionalGids: [0, 7] } },
      {
        deviceNodes: [{ path: "/dev/a", type: "u" }],
        mounts: [{ hostPath: "/h", containerPath: "/c" }],
        hooks: [{ hookName: "createRuntime", path: "/bin/h" }],
      },
    ),
    "json",
  );
  assert.equal(kind, "vendor.com/class");
  assert.deepEqual(edits.additionalGids, [7]);
  assert.deepEqual(devices.get("a"), {
    env: [],
    deviceNodes: [
      {
        path: "/dev/a",
        hostPath: "/dev/a",
        type: "c",
        major: undefined,
        minor: undefined,
        fileMode: undefined,
        permissions: "rwm",
        uid: undefined,
        gid: undefined,
      },
    ],
    mounts: [{ hostPath: "/h", containerPath: "/c", type: "", options: [] }],
    hooks: [{ hookName: "createRuntime", path: "/bin/h", args: [], env: [], timeout: undefined }],
    additionalGids: [],
    notMade: [],
  });
});

test("parseCdiFile: YAML, with Go's octal numbers", () => {
  const text = `
cdiVersion: 0.6.0
kind: vendor.com/class.with-dot
annotations: {a: b}
devices:
- name: 0
  containerEdits: &edits {deviceNodes: [{path: /dev/a, fileMode: 0660}]}
- name: "1"
  containerEdits: *edits
`;
  assert.throws(() => parseCdiFile(text, "yaml"), /devices\.0\.name: text/);
  const parsed = parseCdiFile(text.replace("name: 0", 'name: "0"'), "yaml");
  assert.equal(parsed.devices.get("1")?.deviceNodes[0]?.fileMode, 0o660);
  const oneTwo = parseCdiFile(text.replace("name: 0", "name: x").replace("0660", "0o640"), "yaml");
  assert.equal(oneTwo.devices.get("x")?.deviceNodes[0]?.fileMode, 0o640);
});

const wrong: ReadonlyArray<readonly [string, string, RegExp]> = [
  ["no JSON", "{", /^not JSON: /],
  ["another root", "[]", /^cdiVersion: it must be there$/],
  ["an unknown field", file({ more: 1 }), /^more: unknown field$/],
  [
    "an unknown field far below",
    file({}, { deviceNodes: [{ path: "/dev/a", x: 1 }] }),
    /deviceNodes\.0\.x: unk/,
  ],
  ["no version", file({ cdiVersion: undefined }), /^cdiVersion: it must be there$/],
  ["a version that nobody knows", file({ cdiVersion: "9.0.0" }), /^cdiVersion: one of/],
  ["a kind without a vendor", file({ kind: "class" }), /^kind: vendor\.com\/class/],
  ["no devices", file({ devices: [] }), /^devices: at least one/],
  ["two devices of one name", file({ devices: [{ name: "a" }, { name: "a" }] }), /^devices: two/],
  ["a bad device name", file({ devices: [{ name: "-a" }] }), /^devices\.0\.name: letters/],
  ["a variable without =", file({}, { env: ["A"] }), /env\.0: NAME=value/],
  ["a relative path", file({}, { deviceNodes: [{ path: "dev/a" }] }), /deviceNodes\.0\.path: an absolute/],
  [
    "a way out",
    file({}, { mounts: [{ hostPath: "/h", containerPath: "/a/../b" }] }),
    /containerPath: an abs/,
  ],
  [
    "odd rights",
    file({}, { deviceNodes: [{ path: "/dev/a", permissions: "x" }] }),
    /permissions: some of r, w/,
  ],
  ["an unknown hook", file({}, { hooks: [{ hookName: "later", path: "/x" }] }), /hookName: prestart, /],
  ["a timeout of 0", file({}, { hooks: [{ hookName: "poststop", path: "/x", timeout: 0 }] }), /at least 1/],
  ["a NUL", file({}, { env: ["A=\0"] }), /env\.0: text without NUL/],
  [
    "a field newer than the file says",
    file({ cdiVersion: "0.6.0" }, { additionalGids: [5] }),
    /^additionalGids: needs cdiVersion 0\.7\.0, this is 0\.6\.0$/,
  ],
  [
    "a name newer than the file says",
    file({ cdiVersion: "0.4.0", devices: [{ name: "0" }] }),
    /^a device name that begins with a digit: needs cdiVersion 0\.5\.0/,
  ],
  ["annotations that are too new", file({ cdiVersion: "0.5.0", annotations: {} }), /^annotations: needs/],
  ["net devices that are too new", file({ cdiVersion: "1.0.0" }, { netDevices: [] }), /^netDevices: needs/],
];
for (const [what, content, why] of wrong)
  test(`parseCdiFile: ${what} is refused`, () => {
    assert.throws(() => parseCdiFile(content, "json"), { code: "INVALID", message: why });
  });

test("parseCdiFile: what we do not do is read, and named", () => {
  const { devices } = parseCdiFile(file({}, { intelRdt: { closID: "x" }, netDevices: [{}] }), "json");
  assert.deepEqual(devices.get("a")?.notMade, ["netDevices", "intelRdt"]);
});

test("parseQualifiedName: vendor, class and name, and nothing else", () => {
  assert.deepEqual(parseQualifiedName("v-1.com/c_2.x=0:a"), { kind: "v-1.com/c_2.x", device: "0:a" });
  for (const name of [
    "",
    "a",
    "a/b",
    "a/b=",
    "=c",
    "/b=c",
    "a/=c",
    "1a/b=c",
    "a/b=c d",
    "a/b/c=d",
    "a/b=-",
    "a..b/c=d",
  ])
    assert.equal(parseQualifiedName(name), undefined, name);
  assert.equal(parseQualifiedName(`${"a".repeat(254)}/b=c`), undefined);
});
