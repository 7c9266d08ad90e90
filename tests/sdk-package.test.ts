/** `@tinderbox/firecracker` as npm would publish it: packed, looked at by publint and attw, installed into an empty project, run there. */
import assert from "node:assert/strict";
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import * as sources from "@tinderbox/firecracker";

const root = join(import.meta.dirname, "..");
const packageDirectory = join(root, "packages/firecracker");
/** The oldest Node that the package promises; `tools/setup.sh node22` fetches it */
const node22 = join(root, ".cache/node-22/bin/node");

function run(file: string, args: readonly string[], cwd: string, status = 0): SpawnSyncReturns<string> {
  const result = spawnSync(file, args, { cwd, encoding: "utf8", timeout: 180_000 });
  assert.equal(result.status, status, `${file} ${args.join(" ")}\n${result.stdout}\n${result.stderr}`);
  return result;
}

describe("the packed SDK", () => {
  let work: string;
  let project: string;
  let tarball: string;

  before(() => {
    work = mkdtempSync(join(tmpdir(), "sdk-package-"));
    project = mkdtempSync(join(work, "project-"));
    const tree = (): string[] => readdirSync(packageDirectory).toSorted();
    const [files, manifest] = [tree(), readFileSync(join(packageDirectory, "package.json"), "utf8")];
    const packed = run("npm", ["pack", "--json", "--pack-destination", work], packageDirectory);
    const name = /"filename": "([^"]+)"/.exec(packed.stdout)?.[1] ?? "";
    tarball = join(work, name);
    assert.deepEqual(tree(), files, "packing has left something");
    assert.equal(readFileSync(join(packageDirectory, "package.json"), "utf8"), manifest);
    writeFileSync(join(project, "package.json"), '{ "name": "empty", "private": true, "type": "module" }');
    const quiet = ["--offline", "--no-audit", "--no-fund", "--ignore-scripts"];
    run("npm", ["install", ...quiet, tarball], project);
  });
  after(() => rmSync(work, { recursive: true, force: true }));

  test("is small, has a licence and a readme, and depends on nothing", () => {
    assert.ok(statSync(tarball).size < 100_000, `${statSync(tarball).size} bytes`);
    assert.deepEqual(readdirSync(join(project, "node_modules")).toSorted(), [
      ".package-lock.json",
      "@tinderbox",
    ]);
    const installed = join(project, "node_modules/@tinderbox/firecracker");
    const manifest: Record<string, unknown> = JSON.parse(
      readFileSync(join(installed, "package.json"), "utf8"),
    );
    assert.equal(manifest["dependencies"], undefined);
    assert.equal(manifest["scripts"], undefined);
    assert.deepEqual(manifest["engines"], { node: ">=22" });
    assert.deepEqual(readdirSync(installed).toSorted(), ["LICENSE", "README.md", "dist", "package.json"]);
    assert.match(readFileSync(join(installed, "LICENSE"), "utf8"), /Apache License/);
    const tests = readdirSync(join(installed, "dist"), { recursive: true, encoding: "utf8" });
    assert.deepEqual(
      tests.filter((file) => !/\.(js|d\.ts)$/.test(file) && /\./.test(file)),
      [],
    );
    assert.deepEqual(
      tests.filter((file) => file.includes(".test.")),
      [],
    );
  });

  test("publint and attw have nothing to say", () => {
    run(join(root, "node_modules/.bin/publint"), ["run", tarball, "--strict"], work);
    run(join(root, "node_modules/.bin/attw"), [tarball, "--profile", "esm-only"], work);
  });

  test("its declarations teach the API: a wrong field does not compile, with today's TypeScript and with 5.6", () => {
    writeFileSync(
      join(project, "consumer.ts"),
      `import { launchMachine, type MachineConfiguration, type PausedMachine } from "@tinderbox/firecracker";
       export const right: MachineConfiguration = { "boot-source": { kernel_image_path: "/k" }, drives: [] };
       // @ts-expect-error the field is vcpu_count
       export const wrong: MachineConfiguration = { ...right, "machine-config": { vcpus: 1, mem_size_mib: 1 } };
       // @ts-expect-error a paused machine is not paused again
       export const again = (machine: PausedMachine): unknown => machine.pause();
       export const machine = launchMachine({ binary: "firecracker", apiSocket: "/run/fc", id: "a" });`,
    );
    const options = [
      "--noEmit",
      "--strict",
      "--skipLibCheck",
      "false",
      "--module",
      "nodenext",
      "--target",
      "es2023",
    ];
    const types = ["--typeRoots", join(root, "node_modules/@types"), "--types", "node"];
    for (const compiler of ["typescript", "@arethetypeswrong/core/node_modules/typescript"]) {
      const tsc = join(root, "node_modules", compiler, "bin/tsc");
      assert.ok(existsSync(tsc), tsc);
      run(process.execPath, [tsc, ...options, ...types, "consumer.ts"], project);
    }
  });

  test("what its readme and its pages show compiles against it", () => {
    const pages = readdirSync(join(root, "docs/sdk")).map((name) => join(root, "docs/sdk", name));
    const examples = [join(packageDirectory, "README.md"), ...pages].flatMap((page) =>
      [...readFileSync(page, "utf8").matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code = ""]) => code),
    );
    assert.ok(examples.length >= 4, `${examples.length} examples`);
    const files = examples.map((code, index) => {
      writeFileSync(join(project, `shown-${index}.ts`), code);
      return `shown-${index}.ts`;
    });
    const tsc = join(root, "node_modules/typescript/bin/tsc");
    const options = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2023", "--lib"];
    const types = [
      "es2023,esnext.disposable",
      "--typeRoots",
      join(root, "node_modules/@types"),
      "--types",
      "node",
    ];
    run(process.execPath, [tsc, ...options, ...types, ...files], project);
  });

  test("its API pages are made, and nothing that is exported lacks its comment", () => {
    const typedoc = join(root, "tools/typedoc/node_modules/typedoc/bin/typedoc");
    const out = join(work, "api");
    run(
      process.execPath,
      [typedoc, "--options", join(root, "tools/typedoc/typedoc.json"), "--out", out],
      root,
    );
    assert.match(readFileSync(join(out, "functions/index.launchMachine.html"), "utf8"), /Starts a VMM/);
  });

  const nodes = [process.execPath, ...(existsSync(node22) ? [node22] : [])];
  for (const node of nodes) {
    test(`Node ${run(node, ["--version"], root).stdout.trim()} imports every export`, () => {
      const program = 'import * as sdk from "@tinderbox/firecracker"; console.log(Object.keys(sdk).join())';
      const found = run(node, ["--input-type=module", "--eval", program], project).stdout.trim();
      assert.equal(found, Object.keys(sources).toSorted().join());
    });
  }

  test("boots a microVM from an empty project, with the oldest Node that there is", () => {
    const node = nodes.at(-1) ?? process.execPath;
    const program = join(project, "consumer.mjs");
    writeFileSync(program, readFileSync(join(import.meta.dirname, "support/packed-consumer.mjs")));
    const guest = [join(root, ".cache/guest/vmlinux"), join(root, ".cache/guest/initramfs.img")];
    const result = run(node, [program, join(root, "bin/firecracker-qemu"), ...guest], project);
    assert.match(result.stdout, node === node22 ? /booted by Node 22\./ : /booted by Node/);
  });
});
