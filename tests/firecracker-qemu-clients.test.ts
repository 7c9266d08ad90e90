/**
 * firecracker-qemu and clients of every manner: two at once, those that die in the middle of a request or before their answer,
 * and one that changes its mind. It goes on serving and holds no descriptor, process or socket more than before.
 */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { descendantsOf } from "./support/process-tree.ts";
import { type ApiAnswer, callApi, startVmm, type Vmm } from "./support/vmm-process.ts";

const program = join(import.meta.dirname, "../bin/firecracker-qemu");
const kernel = join(import.meta.dirname, "../.cache/guest/vmlinux");

/** Reads until `fits`, for at most ten seconds; the last that was read. */
async function eventually<T>(look: () => T | Promise<T>, fits: (value: T) => boolean): Promise<T> {
  const end = performance.now() + 10_000;
  for (;;) {
    const value = await look();
    if (fits(value) || performance.now() > end) return value;
    await delay(10);
  }
}

/** A client that keeps its connection, and its answers in the order of its requests. */
class Client {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });
  readonly #socket: string;

  constructor(socket: string) {
    this.#socket = socket;
  }

  call(method: string, path: string, body?: unknown): Promise<ApiAnswer> {
    return new Promise((resolve, reject) => {
      const outgoing = request({ socketPath: this.#socket, method, path, agent: this.#agent }, (answer) => {
        let text = "";
        answer.setEncoding("utf8").on("data", (part: string) => {
          text += part;
        });
        answer.on("end", () => resolve({ status: answer.statusCode ?? 0, body: text }));
      });
      outgoing.on("error", reject);
      const text = body === undefined ? undefined : JSON.stringify(body);
      if (text !== undefined) outgoing.setHeader("Content-Length", Buffer.byteLength(text));
      outgoing.end(text);
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** Sends the first `bytes` of `text` on a new connection and goes away without a word. */
function cutRequest(socket: string, text: string, bytes: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const connection = connect(socket);
    connection.once("error", reject);
    connection.once("close", () => resolve());
    connection.once("connect", () =>
      connection.write(text.slice(0, bytes), () => {
        connection.destroy();
      }),
    );
  });
}

const descriptors = (vmm: Vmm): number => readdirSync(`/proc/${vmm.pid}/fd`).length;

describe("clients of firecracker-qemu", () => {
  const work = mkdtempSync("/tmp/tb-clients-");
  const disk = join(work, "disk.img");
  let vmm: Vmm;
  const call = (method: string, path: string, body?: unknown): Promise<ApiAnswer> =>
    callApi(vmm.socket, method, path, body);
  const put = async (path: string, body: unknown): Promise<void> => {
    const answer = await call("PUT", path, body);
    assert.equal(answer.status, 204, `PUT ${path}: ${answer.body}`);
  };
  const drive = (id: string) => ({ drive_id: id, path_on_host: disk, is_root_device: false });
  const vsock = { guest_cid: 3, uds_path: join(work, "vsock.sock") };

  before(async () => {
    writeFileSync(disk, Buffer.alloc(1 << 16));
    vmm = startVmm(program, work);
    await vmm.ready;
    await put("/boot-source", { kernel_image_path: kernel, boot_args: "panic=-1 reboot=k quiet" });
  });
  after(async () => {
    vmm.child.kill("SIGKILL");
    await vmm.ended;
    rmSync(work, { recursive: true, force: true });
  });

  test("two at once: everyone gets the answers to his own requests, and both have their way", async () => {
    const rounds = 100;
    const life = async (name: string, vcpus: number): Promise<void> => {
      const client = new Client(vmm.socket);
      try {
        for (let n = 0; n < rounds; n++) {
          const id = `${name}${n % 3}`;
          const [made, refused, config, machine] = await Promise.all([
            client.call("PUT", `/drives/${id}`, drive(id)),
            client.call("PUT", `/drives/${id}`, drive(`${name}x`)),
            client.call("GET", "/vm/config"),
            client.call("PUT", "/machine-config", { vcpu_count: vcpus, mem_size_mib: 128 }),
          ]);
          assert.equal(made.status, 204, made.body);
          assert.equal(refused.status, 400);
          assert.match(refused.body, /id/);
          const drives: readonly { readonly drive_id: string }[] = JSON.parse(config.body)["drives"];
          assert.ok(
            drives.some(({ drive_id }) => drive_id === id),
            config.body,
          );
          assert.equal(machine.status, 204, machine.body);
        }
      } finally {
        client.close();
      }
    };
    await Promise.all([life("a", 1), life("b", 2)]);
    const { drives, "machine-config": machine } = JSON.parse((await call("GET", "/vm/config")).body);
    assert.deepEqual(drives.map(({ drive_id }: { readonly drive_id: string }) => drive_id).toSorted(), [
      ...["a0", "a1", "a2"],
      ...["b0", "b1", "b2"],
    ]);
    assert.ok([1, 2].includes(machine.vcpu_count));
  });

  test("clients that die in the middle of a request cost nothing", async () => {
    await call("GET", "/");
    const before = descriptors(vmm);
    const body = JSON.stringify({ drive_id: "cut", path_on_host: disk, is_root_device: false });
    const text = `PUT /drives/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    for (let bytes = 0; bytes < text.length; bytes++) {
      await cutRequest(vmm.socket, text, bytes);
      if (bytes % 20 === 0) assert.equal((await call("GET", "/")).status, 200);
    }
    assert.doesNotMatch(
      (await call("GET", "/vm/config")).body,
      /"cut"/,
      "no part of a request is taken for it",
    );
    assert.equal(
      await eventually(
        () => descriptors(vmm),
        (count) => count <= before,
      ),
      before,
    );
  });

  test("a device that is given again and again leaves nothing of what it was", async () => {
    const give = async (): Promise<void> => {
      await put("/drives/a0", drive("a0"));
      await put("/vsock", vsock);
      await put("/entropy", {});
    };
    await give();
    const [before, children] = [descriptors(vmm), descendantsOf(vmm.pid).length];
    for (let n = 0; n < 10; n++) await give();
    assert.equal(descendantsOf(vmm.pid).length, children);
    assert.equal(
      await eventually(
        () => descriptors(vmm),
        (count) => count <= before,
      ),
      before,
    );
    assert.ok(existsSync(vsock.uds_path));
  });

  test("a client that dies while the machine starts does not keep it from starting", async () => {
    const body = JSON.stringify({ action_type: "InstanceStart" });
    await put("/machine-config", { vcpu_count: 1, mem_size_mib: 128 });
    await put("/boot-source", { kernel_image_path: kernel, boot_args: "panic=0 quiet" });
    const children = descendantsOf(vmm.pid).length;
    const connection = connect(vmm.socket);
    connection.on("error", () => {});
    connection.write(`PUT /actions HTTP/1.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    // It is being started: there is one process more.
    await eventually(
      () => descendantsOf(vmm.pid).length,
      (count) => count > children,
    );
    connection.destroy();
    const info = await eventually(
      async () => (await call("GET", "/")).body,
      (answer) => answer.includes('"Running"'),
    );
    assert.equal(JSON.parse(info).state, "Running");
    assert.equal((await call("PUT", "/actions", { action_type: "InstanceStart" })).status, 400);
  });
});
