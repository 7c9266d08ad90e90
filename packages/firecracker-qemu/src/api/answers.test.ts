// The program's answers before boot, request by request: the status is Firecracker's, the message names the same thing.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { launchMachine, type Machine } from "@tinderbox/firecracker";

const work = mkdtempSync("/tmp/fcq-");
const program = join(import.meta.dirname, "../main.ts");
let machine: Machine;
let socket = "";

async function start(name: string): Promise<void> {
  socket = join(work, `${name}.sock`);
  machine = await launchMachine({
    spawnPrefix: [process.execPath],
    binary: program,
    apiSocket: socket,
    id: name,
    args: ["--level", "Off"],
  });
}

async function stop(): Promise<void> {
  await machine.kill();
}

function send(method: string, path: string, body?: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath: socket, method, path, agent: false }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      answer.on("end", () => resolve({ status: answer.statusCode ?? 0, text }));
    });
    outgoing.on("error", reject);
    if (body !== undefined) outgoing.setHeader("Content-Length", Buffer.byteLength(body));
    outgoing.end(body);
  });
}

before(() => {
  writeFileSync(join(work, "disk.img"), Buffer.alloc(1 << 20));
  writeFileSync(join(work, "kernel"), "not an ELF file");
});
after(() => rmSync(work, { recursive: true, force: true }));

type Row = readonly [method: string, path: string, body: string | undefined, status: number, says?: RegExp];

const disk = join(work, "disk.img");
const kernel = join(work, "kernel");
const drive = (id: string, more: string): string => `{"drive_id":"${id}","is_root_device":false${more}}`;

const sequences: Readonly<Record<string, readonly Row[]>> = {
  info: [
    ["GET", "/", undefined, 200, /"state":"Not started"/],
    ["GET", "/version", undefined, 200, /"firecracker_version":"1\./],
    ["GET", "/version/", undefined, 200],
    ["GET", "/machine-config", undefined, 200, /"mem_size_mib":128/],
    ["GET", "/machine-config/x", undefined, 200],
    ["GET", "/vm/config", undefined, 200, /"boot-source"/],
    ["GET", "/mmds", undefined, 200, /^\{\}$/],
    ["GET", "/balloon", undefined, 400, /No balloon device/],
    ["GET", "/balloon/statistics", undefined, 400, /before starting/],
    ["GET", "/nope", undefined, 400, /method and\/or path: GET nope/],
    ["POST", "/actions", "{}", 400, /"error":.*Method/],
    ["PUT", "/", "{}", 400, /method and\/or path/],
    ["DELETE", "/drives/x", undefined, 400, /before starting/],
    ["GET", "/drives/x", undefined, 400, /GET drives/],
    ["PUT", "/actions", undefined, 400, /Empty PUT/],
    ["PUT", "/actions", "{}", 400, /missing field `action_type`/],
    ["PUT", "/actions", "{", 400, /json/i],
    ["PUT", "/actions", "[]", 400, /sequence/],
    ["PUT", "/actions", "null", 400, /null/],
    ["PUT", "/actions", '{"action_type":"Reboot"}', 400, /unknown variant `Reboot`/],
    ["PUT", "/actions", '{"action_type":"FlushMetrics"}', 400, /before starting/],
    ["PUT", "/actions", '{"action_type":"SendCtrlAltDel"}', 400, /before starting/],
    ["PUT", "/actions", '{"action_type":"InstanceStart"}', 400, /without kernel configuration/],
    ["PUT", "/actions", '{"action_type":"InstanceStart","x":1}', 400, /unknown field `x`/],
    ["PATCH", "/vm", '{"state":"Paused"}', 400, /before starting/],
  ],
  machine: [
    ["PUT", "/machine-config", "{}", 400, /missing field `vcpu_count`/],
    ["PUT", "/machine-config", '{"vcpu_count":1}', 400, /missing field `mem_size_mib`/],
    ["PUT", "/machine-config", '{"vcpu_count":0,"mem_size_mib":128}', 400, /vcpu_count/],
    ["PUT", "/machine-config", '{"vcpu_count":33,"mem_size_mib":128}', 400, /vcpu_count/],
    ["PUT", "/machine-config", '{"vcpu_count":32,"mem_size_mib":128}', 204],
    ["PUT", "/machine-config", '{"vcpu_count":3,"mem_size_mib":128,"smt":true}', 400, /vcpu_count/],
    ["PUT", "/machine-config", '{"vcpu_count":1,"mem_size_mib":0}', 400, /mem_size_mib/],
    [
      "PUT",
      "/machine-config",
      '{"vcpu_count":"1","mem_size_mib":128}',
      400,
      /string "1\\*", expected u8|expected u8/,
    ],
    ["PUT", "/machine-config", '{"vcpu_count":1.5,"mem_size_mib":128}', 400, /floating point `1.5`/],
    ["PUT", "/machine-config", '{"vcpu_count":-1,"mem_size_mib":128}', 400, /`-1`/],
    ["PUT", "/machine-config", '{"vcpu_count":256,"mem_size_mib":128}', 400, /`256`/],
    ["PUT", "/machine-config", '{"vcpu_count":1,"mem_size_mib":128,"foo":1}', 400, /unknown field `foo`/],
    ["PUT", "/machine-config", '{"vcpu_count":1,"mem_size_mib":128,"huge_pages":"1G"}', 400, /`1G`/],
    ["PUT", "/machine-config", '{"vcpu_count":1,"mem_size_mib":128,"cpu_template":"T9"}', 400, /`T9`/],
    ["PUT", "/machine-config", '{"vcpu_count":2,"mem_size_mib":256,"track_dirty_pages":true}', 204],
    ["GET", "/machine-config", undefined, 200, /"track_dirty_pages":true/],
    ["PATCH", "/machine-config", "{}", 400, /Empty PATCH/],
    ["PATCH", "/machine-config", '{"mem_size_mib":512}', 204],
    ["PATCH", "/machine-config", '{"vcpu_count":0}', 400, /vcpu_count/],
    ["PATCH", "/machine-config", '{"y":2}', 400, /unknown field `y`/],
    ["GET", "/machine-config", undefined, 200, /"mem_size_mib":512/],
  ],
  boot: [
    ["PUT", "/boot-source", "{}", 400, /missing field `kernel_image_path`/],
    ["PUT", "/boot-source", '{"kernel_image_path":"/nonexistent"}', 400, /kernel file.*No such file/],
    [
      "PUT",
      "/boot-source",
      `{"kernel_image_path":"${kernel}","initrd_path":"/nonexistent"}`,
      400,
      /initrd file/,
    ],
    [
      "PUT",
      "/boot-source",
      `{"kernel_image_path":"${kernel}","boot_args":"${"x".repeat(2048)}"}`,
      400,
      /command line/,
    ],
    ["PUT", "/boot-source", `{"kernel_image_path":"${kernel}","boot_args":"${"x".repeat(2000)}"}`, 204],
    ["PUT", "/boot-source", '{"kernel_image_path":5}', 400, /expected a string/],
    ["PUT", "/boot-source", `{"kernel_image_path":"${kernel}","extra":true}`, 400, /unknown field `extra`/],
    ["PATCH", "/boot-source", "{}", 400, /PATCH boot-source/],
    ["PUT", "/actions", '{"action_type":"InstanceStart"}', 400, /not an ELF file/],
    ["GET", "/", undefined, 200, /"Not started"/],
  ],
  drives: [
    ["PUT", "/drives/a", '{"drive_id":"a"}', 400, /missing field `is_root_device`/],
    ["PUT", "/drives/a", drive("a", ""), 400, /Invalid block config/],
    ["PUT", "/drives/a", drive("a", ',"path_on_host":"/nonexistent"'), 400, /backing file: No such file/],
    ["PUT", "/drives/a", drive("a", `,"path_on_host":"${disk}"`), 204],
    ["PUT", "/drives/a", drive("a", `,"path_on_host":"${disk}","is_read_only":true`), 204],
    ["PUT", "/drives/b", drive("c", `,"path_on_host":"${disk}"`), 400, /id from the path/],
    ["PUT", "/drives/r", `{"drive_id":"r","is_root_device":true,"path_on_host":"${disk}"}`, 204],
    [
      "PUT",
      "/drives/s",
      `{"drive_id":"s","is_root_device":true,"path_on_host":"${disk}"}`,
      400,
      /root block device/,
    ],
    ["PUT", "/drives/b-1", drive("b-1", `,"path_on_host":"${disk}"`), 400, /alphanumeric/],
    ["PUT", "/drives/b_1", drive("b_1", `,"path_on_host":"${disk}"`), 204],
    [
      "PUT",
      "/drives/c",
      drive("c", `,"path_on_host":"${disk}","cache_type":"None"`),
      400,
      /unknown variant `None`/,
    ],
    [
      "PUT",
      "/drives/c",
      drive("c", `,"path_on_host":"${disk}","io_engine":"Uring"`),
      400,
      /unknown variant `Uring`/,
    ],
    ["PUT", "/drives/e", drive("e", ',"path_on_host":"/tmp"'), 400, /Is a directory/],
    ["PUT", "/drives/", drive("", ""), 400, /ID cannot be empty/],
    ["PUT", "/drives", drive("z", ""), 400, /ID cannot be empty/],
    ["PATCH", "/drives/a", `{"drive_id":"a","path_on_host":"${disk}"}`, 400, /before starting/],
    ["PUT", "/drives/f", drive("f", `,"path_on_host":"${disk}","nope":1`), 400, /unknown field `nope`/],
    ["GET", "/vm/config", undefined, 200, /"drive_id":"r".*"drive_id":"a".*"drive_id":"b_1"/],
  ],
  devices: [
    ["PUT", "/network-interfaces/n", '{"iface_id":"n","host_dev_name":"nosuchtap0"}', 400, /nosuchtap0/],
    [
      "PUT",
      "/network-interfaces/n",
      '{"iface_id":"n","host_dev_name":"lo","guest_mac":"zz"}',
      400,
      /guest_mac/,
    ],
    ["PUT", "/vsock", '{"guest_cid":2,"uds_path":"/tmp/x"}', 400, /guest_cid/],
    ["PUT", "/vsock", '{"guest_cid":3,"uds_path":"/nonexistent/v"}', 400, /No such file/],
    ["PUT", "/vsock", `{"guest_cid":3,"uds_path":"${disk}"}`, 400, /in use/],
    ["PUT", "/entropy", "{}", 204],
    ["PUT", "/balloon", '{"amount_mib":1,"deflate_on_oom":true}', 400, /not supported by firecracker-qemu/],
    ["PUT", "/snapshot/load", "{}", 400, /not supported by firecracker-qemu/],
    ["PUT", "/metrics", `{"metrics_path":"${work}/metrics"}`, 204],
    ["PUT", "/metrics", `{"metrics_path":"${work}/metrics"}`, 400, /already/],
    ["PUT", "/logger", '{"level":"Loud"}', 400, /Loud/],
    ["PUT", "/mmds", '{"a":{"b":1}}', 204],
    ["PATCH", "/mmds", '{"a":{"b":null,"c":2}}', 204],
    ["GET", "/mmds", undefined, 200, /^\{"a":\{"c":2\}\}$/],
  ],
};

for (const [name, rows] of Object.entries(sequences)) {
  test(`firecracker-qemu: answers before boot: ${name}`, async () => {
    await start(name);
    try {
      for (const [method, path, body, status, says] of rows) {
        const answer = await send(method, path, body);
        const what = `${method} ${path} ${body ?? ""} → ${answer.status} ${answer.text}`;
        assert.equal(answer.status, status, what);
        if (status === 204) assert.equal(answer.text, "", what);
        if (status === 400)
          assert.match(answer.text, method === "POST" ? /^\{"error"/ : /^\{"fault_message"/, what);
        if (says !== undefined) assert.match(answer.text, says, what);
      }
    } finally {
      await stop();
    }
  });
}

/** Sends raw bytes and returns what has come when the server has answered as often as wanted. */
async function raw(bytes: string, answers: number): Promise<string> {
  const connection = connect(socket);
  let got = "";
  connection.setEncoding("utf8").on("data", (part: string) => {
    got += part;
  });
  connection.write(bytes);
  while (got.split("HTTP/1.1 ").length <= answers)
    await once(connection, "data", { signal: AbortSignal.timeout(5_000) });
  connection.destroy();
  return got;
}

test("firecracker-qemu: the HTTP layer's own limits and pipelining", async () => {
  await start("http");
  try {
    const get = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    assert.equal((await raw(get + get + get, 3)).split("firecracker_version").length, 4);
    const large = await raw("PUT /actions HTTP/1.1\r\nContent-Length: 60000\r\n\r\n", 1);
    assert.match(large, /^HTTP\/1\.1 400 [\s\S]*"error".*51200/);
    const long = await raw(`GET /${"x".repeat(2000)} HTTP/1.1\r\n\r\n`, 1);
    assert.match(long, /^HTTP\/1\.1 400 [\s\S]*1024/);
    const chunked = await raw("PUT /actions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 1);
    assert.match(chunked, /^HTTP\/1\.1 400 [\s\S]*Transfer-Encoding/);
    assert.match(await raw("GET /bad id HTTP/1.1\r\n\r\n", 1), /"error":.*Version/);
  } finally {
    await stop();
  }
});

test("firecracker-qemu: wrong arguments end it with Firecracker's statuses", async () => {
  const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
    [["--version"], 0, /^Firecracker v1\.\d+\.\d+\n$/],
    [["--nope"], 153, /--nope/],
    [["--id", "a", "--id", "b"], 153, /--id/],
    [["--id", "a b"], 153, /--id/],
    [["--no-api"], 153, /--config-file/],
    [["--level", "Loud"], 152, /Loud/],
    [["--api-sock", disk], 1, /exists/],
    [["--enable-pci"], 153, /PCI/],
  ];
  for (const [args, status, says] of cases) {
    const one = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    for (const stream of [one.stdout, one.stderr])
      stream.setEncoding("utf8").on("data", (part: string) => {
        said += part;
      });
    const [code] = await once(one, "close");
    assert.equal(code, status, `${args.join(" ")}: ${said}`);
    assert.match(said, says);
  }
});
