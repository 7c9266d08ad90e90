/** Which network is in force, by the files of a directory. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { createLogger } from "../base/log.ts";
import { type NetworkInForce, NetworkSource } from "./network-source.ts";

const work = mkdtempSync(join(tmpdir(), "tb-source-"));
const confDir = join(work, "net.d");
const binDir = join(work, "bin");
after(() => rmSync(work, { recursive: true, force: true }));
beforeEach(() => {
  rmSync(work, { recursive: true, force: true });
  mkdirSync(confDir, { recursive: true });
  mkdirSync(binDir);
  for (const type of ["a", "b", "c"]) writeFileSync(join(binDir, type), "", { mode: 0o755 });
});

const open = (defaultNetwork = ""): Promise<NetworkSource> =>
  NetworkSource.open({
    confDir,
    binDirs: [binDir],
    defaultNetwork,
    logger: createLogger({ level: "error", format: "text" }),
  });
const read = async (defaultNetwork = ""): Promise<NetworkInForce> => (await open(defaultNetwork)).read();

function write(path: string, content: object | string): void {
  mkdirSync(join(confDir, path, ".."), { recursive: true });
  writeFileSync(join(confDir, path), typeof content === "string" ? content : JSON.stringify(content));
}
const list = (name: string, more: object = {}): object => ({
  cniVersion: "1.0.0",
  name,
  plugins: [{ type: "a" }],
  ...more,
});
const typesOf = ({ network }: NetworkInForce): readonly string[] | undefined =>
  network?.plugins.map(({ type }) => type);

test("the first file by name is the network, whatever its ending", async () => {
  write("20-x.conflist", list("x"));
  write("10-y.json", { cniVersion: "0.4.0", name: "y", type: "b" });
  write("05-not-one.txt", "{");
  const { network, fault } = await read();
  assert.equal(fault, undefined);
  assert.equal(network?.name, "y");
  write("01-broken.conf", "{");
  assert.match((await read()).fault ?? "", /01-broken\.conf: not JSON/);
});

test("a network chosen by name is found behind others, and behind a file that is broken", async () => {
  write("10-broken.conflist", "{");
  write("20-x.conflist", list("x"));
  write("30-y.conflist", list("y"));
  assert.equal((await read("y")).network?.name, "y");
  const missing = await read("z");
  assert.equal(missing.network, undefined);
  assert.match(missing.fault ?? "", /^no network z in .*: .*10-broken\.conflist: not JSON/);
  rmSync(join(confDir, "10-broken.conflist"));
  assert.match((await read("z")).fault ?? "", /^no CNI configuration in .* with the name z$/);
});

test("plugins of the network's own directory are added, unless the list forbids it", async () => {
  write("10-x.conflist", list("x"));
  write("x/20-c.conf", { type: "c" });
  write("x/10-b.conf", { type: "b" });
  write("x/30-d.conflist", "{");
  assert.deepEqual(typesOf(await read()), ["a", "b", "c"]);
  write("10-x.conflist", list("x", { loadOnlyInlinedPlugins: true }));
  assert.deepEqual(typesOf(await read()), ["a"]);
  write("10-x.conflist", { cniVersion: "1.1.0", name: "x" });
  assert.deepEqual(typesOf(await read()), ["b", "c"]);
  write("10-x.conflist", { cniVersion: "1.1.0", name: "x", loadOnlyInlinedPlugins: true });
  assert.match((await read()).fault ?? "", /plugins: a list of at least one plugin is expected/);
  write("10-x.conflist", { cniVersion: "1.1.0", name: "none" });
  assert.match((await read()).fault ?? "", /no plugins, and none in .*\/none/);
});

test("the newest version that a file offers and that is known is spoken", async () => {
  for (const [versions, spoken] of [
    [{ cniVersion: "0.3.1" }, "0.3.1"],
    [{ cniVersion: "0.4.0", cniVersions: ["1.0.0", "1.1.0", "2.0.0"] }, "1.1.0"],
    [{ cniVersion: undefined, cniVersions: ["0.4.0"] }, "0.4.0"],
  ] as const) {
    write("10-x.conflist", list("x", versions));
    assert.equal((await read()).network?.cniVersion, spoken);
  }
  for (const versions of [
    { cniVersion: "0.2.0" },
    { cniVersion: 1 },
    { cniVersion: undefined },
    { cniVersions: "1.0.0" },
  ]) {
    write("10-x.conflist", list("x", versions));
    assert.match((await read()).fault ?? "", /cniVersion/);
  }
});

test("a network stays in force while its file is broken or its new plugin is missing, and goes with the file", async () => {
  write("10-x.conflist", list("x"));
  const source = await open();
  assert.equal((await source.read()).fault, undefined);
  for (const [content, message] of [
    ["", /not JSON/],
    [list("x", { plugins: [] }), /plugins: a list of at least one plugin/],
    [list("x", { plugins: [{ type: "../a" }] }), /a plugin's file name is expected/],
    [list("x", { plugins: [{ type: "d" }] }), /CNI plugin d is not in/],
    [list("../x"), /name "\.\.\/x"/],
    [list("x", { disableGC: "maybe" }), /disableGC "maybe": true or false/],
    [" ".repeat(2 << 20), /longer than/],
  ] as const) {
    write("10-x.conflist", content);
    const { network, fault } = await source.read();
    assert.deepEqual(network?.plugins[0]?.type, "a");
    assert.match(fault ?? "", message);
    assert.match(fault ?? "", /; the network x, read before, stays in force$/);
  }
  rmSync(join(confDir, "10-x.conflist"));
  const { network, fault } = await source.read();
  assert.equal(network, undefined);
  assert.match(fault ?? "", /no CNI configuration/);
});

test("a change is noticed without being asked for", async () => {
  write("10-x.conflist", list("x"));
  const said: string[] = [];
  const noticed = Promise.withResolvers<void>();
  const note = (message: string, fields?: object): void => {
    said.push(`${message} ${JSON.stringify(fields)}`);
    if (/"name":"y"/.test(said.at(-1) ?? "")) noticed.resolve();
  };
  const silent = createLogger({ level: "error", format: "text" });
  await NetworkSource.open({
    confDir,
    binDirs: [binDir],
    defaultNetwork: "",
    logger: { ...silent, info: note },
  });
  write("10-x.conflist", list("y"));
  await noticed.promise;
});
