// PUT /boot-source before the start, and what a start makes of what it was given.
import { rmSync } from "node:fs";
import { kernel } from "./harness/binary.ts";
import { get, put, type Row, refused, sequence } from "./harness/rows.ts";

const path = "/boot-source";
const set = (more: object, rest: Partial<Row> = {}): Row =>
  put(path, { kernel_image_path: kernel, ...more }, 204, rest);
const wrong = (body: object, says: RegExp): Row => refused(`PUT ${path}`, body, says);
const start = (says: RegExp): Row => refused("PUT /actions", { action_type: "InstanceStart" }, says);
const maxArgs = 2047;

sequence("boot-source: files are opened when they are named", [
  wrong({}, /missing field `kernel_image_path`/),
  wrong({ kernel_image_path: "DIR/nope" }, /kernel file cannot be opened: No such file or directory/),
  wrong({ kernel_image_path: "" }, /kernel file.*No such file or directory/),
  wrong({ kernel_image_path: "DIR/disk.img/x" }, /kernel file.*Not a directory/),
  wrong({ kernel_image_path: kernel, initrd_path: "DIR/nope" }, /initrd file cannot be opened.*No such file/),
  wrong({ kernel_image_path: 5 }, /integer `5`, expected a string/),
  wrong({ kernel_image_path: kernel, initrd_path: 5 }, /integer `5`, expected a string/),
  wrong({ kernel_image_path: kernel, extra: true }, /unknown field `extra`.*`initrd_path`/),
  get("/vm/config", { "boot-source": { kernel_image_path: "" } }),
  set({}),
  get("/vm/config", { "boot-source": { kernel_image_path: kernel, initrd_path: null, boot_args: null } }),
  set({ initrd_path: "DIR/disk.img", boot_args: "quiet" }),
  get("/vm/config", {
    "boot-source": { kernel_image_path: kernel, initrd_path: "DIR/disk.img", boot_args: "quiet" },
  }),
  // A refused one changes nothing.
  wrong({ kernel_image_path: "DIR/nope" }, /No such file/),
  get("/vm/config", { "boot-source": { kernel_image_path: kernel, boot_args: "quiet" } }),
]);

sequence("boot-source: the length of boot_args", [
  set({ boot_args: "" }),
  set({ boot_args: "x".repeat(maxArgs) }),
  wrong({ kernel_image_path: kernel, boot_args: "x".repeat(maxArgs + 1) }, /kernel command line.*capacity/i),
  // Bytes count, white space around does not; behind ` -- ` it is init's, and counts, too.
  wrong({ kernel_image_path: kernel, boot_args: "é".repeat(1024) }, /kernel command line/),
  set({ boot_args: `${" ".repeat(1500)}x${" ".repeat(1500)}` }),
  set({ boot_args: `a -- ${"b".repeat(maxArgs - 5)}` }),
  wrong({ kernel_image_path: kernel, boot_args: `a -- ${"b".repeat(maxArgs - 4)}` }, /kernel command line/),
  wrong({ kernel_image_path: kernel, boot_args: ["x"] }, /sequence, expected a string/),
]);

sequence("boot-source: a start that fails leaves a machine that can be set right", [
  start(/without kernel configuration/),
  put(path, { kernel_image_path: "DIR/disk.img" }),
  start(/Start microvm error: .*kernel/i),
  put(path, { kernel_image_path: "DIR/empty" }),
  start(/Start microvm error: .*kernel/i),
  set({ initrd_path: "DIR/empty" }),
  start(/Start microvm error: .*initrd/i),
  // No room for what the VMM adds.
  set({ boot_args: "x".repeat(maxArgs) }),
  start(/Start microvm error: .*(command ?line|Cmdline)/i),
  get("/", { state: "Not started" }),
  set({ boot_args: "quiet" }),
]);

sequence("boot-source: a kernel that is gone", [
  put(path, { kernel_image_path: "DIR/disk.img" }, 204, {
    effect: ({ directory }) => rmSync(`${directory}/disk.img`),
  }),
  start(/Start microvm error/),
]);
