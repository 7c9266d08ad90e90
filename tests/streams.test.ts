/** Exec, attach, port-forward and logs under abuse: clients that stop reading, go away, or fail a thousand times; a daemon that is stopped. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { TestCni } from "./support/cni.ts";
import { type CommandClient, openCommand, type Transport, transports } from "./support/command-client.ts";
import type { ContainerInit, TestContainer, TestCri } from "./support/cri-client.ts";
import { startCriStage, stopCriStage } from "./support/cri-stage.ts";
import type { TestDaemon } from "./support/daemon.ts";
import { eventually } from "./support/kubelet.ts";
import { descendantsOf } from "./support/process-tree.ts";
import { SpdyClient } from "./support/spdy-client.ts";
import type { TestRegistry } from "./support/test-registry.ts";

const work = mkdtempSync("/tmp/tb-");
const mib = 1 << 20;
/** What sockets and queues of one stream may hold together, from the process to the client's socket */
const maxHeldBytes = 24 * mib;
/** What a flood writes at once: few, since a guest that is emulated starts processes slowly */
const blockBytes = 256 << 10;
/** What the daemon may grow by, whatever its clients do */
const maxGrowthBytes = 64 * mib;

let registry: TestRegistry;
let cni: TestCni;
let daemon: TestDaemon;
let cri: TestCri;
let image = "";

before(async () => {
  ({ registry, cni, daemon, cri, image } = await startCriStage(work, { logLevel: "info" }));
});
after(() => stopCriStage(work, { registry, cni, daemon, cri }));

const daemonPid = (): number => daemon.child.pid ?? 0;
const openFiles = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;
const threads = (pid: number): number => readdirSync(`/proc/${pid}/task`).length;
function residentBytes(pid: number): number {
  const [, kib = "0"] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kib) * 1024;
}

async function execUrl(container: TestContainer, cmd: readonly string[], stdin = false): Promise<string> {
  const request = {
    containerId: container.id,
    cmd: [...cmd],
    stdin,
    stdout: true,
    stderr: false,
    tty: false,
  };
  return (await cri.runtime.callUnary("exec", request)).url;
}
async function attachUrl(container: TestContainer, stdin = false): Promise<string> {
  const request = { containerId: container.id, stdin, stdout: true, stderr: false, tty: false };
  return (await cri.runtime.callUnary("attach", request)).url;
}
async function forward(transport: Transport, podId: string, port: number): Promise<SpdyClient> {
  const { url } = await cri.runtime.callUnary("portForward", { podSandboxId: podId, port: [port] });
  const client =
    transport === "spdy" ? await SpdyClient.open(url, "portforward.k8s.io") : await SpdyClient.tunnel(url);
  openPair(client, 1, port);
  return client;
}
/** A local connection: streams `id` for errors, `id + 2` for data. */
function openPair(client: SpdyClient, id: number, port: number): void {
  client.open(id, { streamtype: "error", port: `${port}`, requestid: `${id}` });
  client.open(id + 2, { streamtype: "data", port: `${port}`, requestid: `${id}` });
}

/** Writes without end and counts in a file how many blocks it got rid of; ends when nobody reads any more. */
const flood = (counter: string): string =>
  `i=0; while head -c ${blockBytes} /dev/zero; do i=$((i+1)); echo $i > ${counter}.new; mv ${counter}.new ${counter}; done`;

/** The text of a log file as its lines, each in CRI's form. */
function contentOf(text: string): string {
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => {
      const parts = /^\S{30,} stdout ([FP]) (.*)$/.exec(line);
      assert.ok(parts, `not a log line: ${JSON.stringify(line.slice(0, 200))}`);
      return `${parts[2]}${parts[1] === "F" ? "\n" : ""}`;
    })
    .join("");
}

for (const handler of ["crun", "firecracker"]) {
  describe(`streams of ${handler}`, () => {
    let podId = "";
    let podIp = "";
    let podConfig: ReturnType<TestCri["podConfig"]>;
    let quiet: TestContainer;

    before(async () => {
      podConfig = cri.podConfig();
      podId = await cri.runPod(handler, podConfig);
      podIp =
        (await cri.runtime.callUnary("podSandboxStatus", { podSandboxId: podId })).status?.network?.ip ?? "";
      quiet = await start({ command: ["sleep", "100000"] });
    });
    after(() => cri.removePods());

    const start = (more: ContainerInit): Promise<TestContainer> => cri.start(podId, podConfig, image, more);
    const remove = async ({ id }: TestContainer): Promise<void> => {
      await cri.runtime.callUnary("stopContainer", { containerId: id, timeout: 0n });
      await cri.runtime.callUnary("removeContainer", { containerId: id });
    };
    /** The pod's agent on the host; in a guest nobody can look at it. */
    const agentPid = (): number | undefined =>
      handler === "crun"
        ? descendantsOf(1).find(
            ({ command }) => /tinderbox-native agent/.test(command) && command.includes(podId),
          )?.pid
        : undefined;
    /** Looks until what it sees is as it shall be, and the same twice; what that is. */
    const standsStill = (
      what: string,
      look: () => Promise<string>,
      isWanted: (text: string) => boolean,
    ): Promise<string> => {
      let last = "";
      return eventually(what, 120, async () => {
        const [now, before] = [await look(), last];
        last = now;
        assert.ok(isWanted(now) && now === before, `now ${now}, before ${before}`);
        return now;
      });
    };
    const listens = (container: TestContainer, ...ports: readonly number[]): Promise<void> =>
      eventually(`servers on ${ports}`, 120, async () => {
        const sockets = await cri.output(container, "netstat", "-ltn");
        for (const port of ports) assert.match(sockets, new RegExp(`:${port} `));
      });
    /** That files and threads are back to what they were. */
    const backTo = async (
      files: number,
      agent: { pid: number; files: number; threads: number } | undefined,
    ): Promise<void> => {
      await eventually("the daemon's files are back", 120, () => {
        const now = openFiles(daemonPid());
        assert.ok(now <= files + 2, `${files} open files before, ${now} now`);
      });
      if (agent)
        await eventually("the agent's files and threads are back", 120, () => {
          const now = { files: openFiles(agent.pid), threads: threads(agent.pid) };
          assert.ok(
            now.files <= agent.files + 2 && now.threads <= agent.threads + 2,
            JSON.stringify({ before: agent, now }),
          );
        });
    };
    const agentNow = (): { pid: number; files: number; threads: number } | undefined => {
      const pid = agentPid();
      assert.equal(pid === undefined, handler !== "crun");
      return pid === undefined ? undefined : { pid, files: openFiles(pid), threads: threads(pid) };
    };

    test("3, a thousand execs that fail leave no file, process or thread (CVE-2022-23471)", async () => {
      // An exec takes long in a guest that is emulated.
      const many = handler === "crun" ? 1000 : 50;
      const fail = async (n: number): Promise<void> => {
        if (n % 4 !== 0) {
          const { exitCode } = await cri.exec(quiet, "/no/such/program").catch(() => ({ exitCode: 127 }));
          return assert.notEqual(exitCode, 0);
        }
        const client = await openCommand(
          n % 8 === 0 ? "spdy" : "websocket",
          await execUrl(quiet, ["/no/such/program"]),
          { stdin: false },
        );
        const status = JSON.parse(await client.status);
        client.destroy();
        assert.equal(status.status, "Failure");
      };
      for (const n of [0, 1, 4]) await fail(n);
      const [files, agent, processes] = [
        openFiles(daemonPid()),
        agentNow(),
        descendantsOf(daemonPid()).length,
      ];
      for (let n = 0; n < many; n += 10) await Promise.all(Array.from({ length: 10 }, (_, m) => fail(n + m)));
      await backTo(files, agent);
      assert.equal(descendantsOf(daemonPid()).length, processes);
    });

    test("clients that stop reading hold up themselves, and hold no memory", async () => {
      const main = `while [ ! -e /tmp/go ]; do usleep 50000; done; ${flood("/tmp/main")}`;
      const flooding = await start({ command: ["sh", "-c", main] });
      const script = `cat > /tmp/serve <<'END'\n${flood("/tmp/count-forward-$$")}\nEND`;
      await cri.output(flooding, "sh", "-c", script);
      const [files, agent] = [openFiles(daemonPid()), agentNow()];
      const listen = ["nc", "-ll", "-p", "9000", "-e", "/bin/sh", "/tmp/serve"];
      const stalled: { destroy(): void }[] = [
        await openCommand("spdy", await execUrl(flooding, listen), { stdin: false }),
      ];
      await listens(flooding, 9000);
      const memory = residentBytes(daemonPid());

      for (const transport of transports) {
        const url = await execUrl(flooding, ["sh", "-c", flood(`/tmp/count-exec-${transport}`)]);
        stalled.push(await openCommand(transport, url, { stdin: false, isPaused: true }));
        const client = await forward(transport, podId, 9000);
        client.pause();
        stalled.push(client);
      }
      const counts = (): Promise<string> =>
        cri.output(flooding, "sh", "-c", "cd /tmp; grep -H . $(ls | grep '^count-[a-z]*-[a-z0-9]*$')");
      await standsStill("four floods", counts, (text) => text.trim().split("\n").length === 4);
      for (const [, name, count] of (await counts()).matchAll(/^count-(.*):(\d+)$/gm)) {
        const bytes = Number(count) * blockBytes;
        assert.ok(bytes <= maxHeldBytes, `${name}: ${bytes} bytes are on their way`);
      }
      // Others are served all the while.
      assert.equal(await cri.output(quiet, "echo", "fine"), "fine\n");
      const tenMib = ["head", "-c", `${10 * mib}`, "/dev/zero"];
      const other = await openCommand("websocket", await execUrl(flooding, tenMib), { stdin: false });
      assert.equal(JSON.parse(await other.status).status, "Success");
      assert.equal(other.stdout.bytes, 10 * mib);

      // Who is attached holds up the container, as a pipe would; but not for ever.
      for (const transport of handler === "crun" ? transports : transports.slice(1))
        stalled.push(
          await openCommand(transport, await attachUrl(flooding), { stdin: false, isPaused: true }),
        );
      await cri.output(flooding, "touch", "/tmp/go");
      await eventually("a container that has written more than could be held", 180, async () => {
        const blocks = Number(await cri.output(flooding, "sh", "-c", "cat /tmp/main || true"));
        assert.ok(blocks * blockBytes > maxHeldBytes + 4 * mib, `${blocks} blocks`);
      });
      const growth = residentBytes(daemonPid()) - memory;
      assert.ok(growth <= maxGrowthBytes, `the daemon grew by ${growth} bytes`);

      for (const client of stalled) client.destroy();
      await remove(flooding);
      await backTo(files, agent);
    });

    test("3, input that nobody takes holds no memory, and a client that leaves then is let go (CVE-2025-64329)", async () => {
      const deaf = await start({ command: ["sleep", "100000"], stdin: true });
      const server = await openCommand(
        "spdy",
        await execUrl(deaf, ["nc", "-ll", "-p", "9001", "-e", "/bin/sleep", "100000"]),
        { stdin: false },
      );
      await listens(deaf, 9001);
      const [files, agent] = [openFiles(daemonPid()), agentNow()];
      const memory = residentBytes(daemonPid());
      const block = Buffer.alloc(mib);
      const leaving: { destroy(): void }[] = [];
      const taken = { bytes: 0 };
      const push = (client: CommandClient | SpdyClient): void => {
        leaving.push(client);
        for (let n = 0; n < 50; n++) {
          const sent = client instanceof SpdyClient ? client.send(3, block) : client.send(block);
          void sent.then(() => (taken.bytes += mib));
        }
      };
      for (const transport of transports) {
        push(await openCommand(transport, await execUrl(deaf, ["sleep", "100001"], true), { stdin: true }));
        push(await openCommand(transport, await attachUrl(deaf, true), { stdin: true }));
        push(await forward(transport, podId, 9001));
      }
      let last = -1;
      await eventually("clients that stand still", 120, async () => {
        const stands = taken.bytes === last;
        last = taken.bytes;
        await cri.output(quiet, "usleep", "200000");
        assert.ok(stands);
      });
      assert.ok(taken.bytes <= 6 * maxHeldBytes, `${taken.bytes} bytes were taken`);
      const growth = residentBytes(daemonPid()) - memory;
      assert.ok(growth <= maxGrowthBytes, `the daemon grew by ${growth} bytes`);
      for (const client of leaving) client.destroy();
      await eventually("the daemon's files are back", 120, () => {
        const now = openFiles(daemonPid());
        assert.ok(now <= files + 2, `${files} open files before, ${now} now`);
      });
      // The execs' own processes live on; nothing else does.
      await cri.output(deaf, "sh", "-c", "kill $(pidof sleep | tr ' ' '\\n' | grep -v '^1$') || true");
      await backTo(files, agent);
      server.destroy();
      await remove(deaf);
    });

    for (const transport of transports)
      test(`by ${transport}: input of any bytes, half-closed, comes whole, and so does a slow reader's output`, async () => {
        const bytes = randomBytes(8 * mib);
        const hash = createHash("sha256").update(bytes).digest("hex");
        const command = ["sh", "-c", "tee /tmp/index.html | sha256sum"];
        const sum = await openCommand(transport, await execUrl(quiet, command, true), { stdin: true });
        for (let at = 0; at < bytes.length; at += 100_003) await sum.send(bytes.subarray(at, at + 100_003));
        await sum.endStdin();
        assert.equal(JSON.parse(await sum.status).status, "Success");
        assert.equal(sum.stdout.text, `${hash}  -\n`);

        const server = await openCommand(
          "spdy",
          await execUrl(quiet, ["httpd", "-f", "-p", "9002", "-h", "/tmp"]),
          { stdin: false },
        );
        await listens(quiet, 9002);
        const client = await forward(transport, podId, 9002);
        await client.send(3, "GET /index.html HTTP/1.0\r\n\r\n");
        const slow = setInterval(() => {
          client.pause();
          setTimeout(() => client.resume(), 5);
        }, 10);
        await client.end(3);
        clearInterval(slow);
        client.resume();
        assert.equal(await client.end(1), "");
        const headBytes = client.received(3).text.indexOf("\r\n\r\n") + 4;
        assert.equal(client.received(3).bytes - headBytes, bytes.length);
        // The connection is good for more, and each of them is apart.
        openPair(client, 5, 9002);
        openPair(client, 9, 9003);
        await client.send(7, "GET /none HTTP/1.0\r\n\r\n");
        assert.match(await client.end(7), /404 Not Found/);
        assert.match(await client.end(9), /port 9003/);
        client.destroy();
        await cri.output(quiet, "sh", "-c", "kill $(pidof httpd)");
        await server.status;
      });

    test("a stopped daemon holds up no output that its spool has room for, and misses none", async () => {
      const lines = { fits: 15_000, more: 100_000 };
      const line = "abcdefghijklmnopqrstuvwxyz".repeat(4);
      // Begun by a connection, seen by a web server: the daemon is not there to ask.
      const writer = await start({
        command: [
          "sh",
          "-c",
          `cd /tmp; httpd -p 9010 -h /tmp; nc -l -p 9011 > /dev/null;
           seq 1 ${lines.fits} | sed 's/$/ ${line}/'; echo fits > progress;
           seq ${lines.fits + 1} ${lines.more} | sed 's/$/ ${line}/'; echo more > progress; sleep 100000`,
        ],
        logPath: "stopped.log",
      });
      const logPath = join(podConfig.logDirectory, "stopped.log");
      const begin = (): Promise<void> =>
        new Promise((resolve, reject) => {
          const socket = connect(9011, podIp, () => socket.end());
          socket.once("error", reject).once("close", () => resolve());
        });
      const progress = async (): Promise<string> => (await fetch(`http://${podIp}:9010/progress`)).text();
      await listens(writer, 9010, 9011);
      process.kill(daemonPid(), "SIGSTOP");
      try {
        await begin();
        await eventually("output that fits", 120, async () => assert.match(await progress(), /fits|more/));
        // On the host the pod's agent writes the log itself: nothing ever waits for the daemon.
        if (handler === "crun")
          await eventually("all output", 120, async () => assert.match(await progress(), /more/));
      } finally {
        process.kill(daemonPid(), "SIGCONT");
      }
      await eventually("all output", 120, async () => assert.match(await progress(), /more/));
      const expected = Array.from({ length: lines.more }, (_, n) => `${n + 1} ${line}\n`).join("");
      await eventually("the whole log", 120, () =>
        assert.ok(contentOf(readFileSync(logPath, "utf8")) === expected),
      );
      await remove(writer);
    });

    test("a log that is renamed and reopened twenty times under full speed loses no line and cuts none", async () => {
      const writer = await start({
        command: [
          "sh",
          "-c",
          "i=0; while [ ! -e /tmp/stop ]; do seq $i $((i+9999)); i=$((i+10000)); done; echo end",
        ],
        logPath: "rotated.log",
      });
      const logPath = join(podConfig.logDirectory, "rotated.log");
      const names: string[] = [];
      const size = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;
      for (let n = 0; n < 20; n++) {
        await eventually("lines in the log", 120, () => assert.ok(size(logPath) > 0));
        names.push(`${logPath}.${n}`);
        renameSync(logPath, `${logPath}.${n}`);
        await cri.runtime.callUnary("reopenContainerLog", { containerId: writer.id });
        assert.ok(statSync(logPath).isFile());
      }
      await cri.exec(writer, "touch", "/tmp/stop");
      await eventually("the writer's end", 120, () =>
        assert.match(readFileSync(logPath, "utf8").slice(-200), / end\n$/),
      );
      const text = [...names, logPath].map((name) => contentOf(readFileSync(name, "utf8"))).join("");
      const numbers = text.split("\n").slice(0, -2);
      assert.equal(numbers.length % 10_000, 0);
      assert.ok(numbers.length > 0);
      assert.equal(
        numbers.findIndex((number, n) => number !== `${n}`),
        -1,
      );
      for (const name of [...names, logPath]) rmSync(name);
      await remove(writer);
    });
  });
}
