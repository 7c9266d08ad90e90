/** Every mistake in the daemon's configuration or on its command line, by the real program: file, key, value, what is allowed. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { startDaemon } from "./support/daemon.ts";

const program = join(import.meta.dirname, "../bin/tinderboxd");
const work = mkdtempSync("/tmp/tb-config-");
after(() => rmSync(work, { recursive: true, force: true }));

/** Runs the daemon until it ends by itself. */
async function run(args: readonly string[]): Promise<{ code: number | null; err: string }> {
  const child = execFile(program, [...args], { timeout: 20_000 });
  let err = "";
  child.stderr?.on("data", (chunk) => (err += String(chunk)));
  const [code] = await once(child, "close");
  return { code, err };
}

const file = join(work, "config.toml");
const oci = (more: string): string => `[runtimes.crun]\ntype = "oci"\n${more}`;
const vm = (more: string): string => `default_runtime = "x"\n[runtimes.x]\ntype = "microvm"\n${more}`;
const mirrors = (value: string): string => `[registries."a.b"]\nmirrors = ${value}`;
const path = "an absolute path";
const notRoot = "an absolute path other than /";
const vmm = '"auto", "firecracker", "firecracker-qemu" or an absolute path';
const url = "an http:// or https:// URL without credentials or a query";
const noProgram = join(work, "no-program");
writeFileSync(noProgram, "#!/bin/sh\n");

/** What is written, and what is said of it after `tinderboxd: FILE: ` */
const keys =
  "root, state, listen, log_level, default_runtime, runtimes, enable_criu_support, cni, cdi_spec_dirs, metrics, images, registries";

const mistakes: readonly (readonly [string, string])[] = [
  ['rot = "/a"', `rot: unknown key; did you mean root? known here: ${keys}`],
  ["zzzzzzzzz = 1", `zzzzzzzzz: unknown key; known here: ${keys}`],
  ['cdi_spec_dirs = "/etc/cdi"', 'cdi_spec_dirs: "/etc/cdi": a list of paths'],
  ['cdi_spec_dirs = ["cdi"]', `cdi_spec_dirs.0: "cdi": ${notRoot}`],
  ["root = 5", `root: 5: ${path}`],
  ['root = ""', `root: "": ${notRoot}`],
  ['root = "/"', `root: "/": ${notRoot}`],
  ['root = "var"', `root: "var": ${notRoot}`],
  ['root = "/a/../b"', 'root: "/a/../b": a path without `..`'],
  ['root = "/run/tinderbox"', 'state: "/run/tinderbox": a directory other than root'],
  [
    'root = "/run/tinderbox/x"',
    'root: "/run/tinderbox/x": a directory outside state, which a reboot empties',
  ],
  ['enable_criu_support = "yes"', 'enable_criu_support: "yes": true or false'],
  ["state = true", `state: true: ${path}`],
  ['listen = ["/x"]', `listen: ["/x"]: ${path}`],
  ['listen = "/run/\\u0000x"', `listen: "/run/\\u0000x": ${notRoot}`],
  [`listen = "/${"x".repeat(108)}"`, `listen: "/${"x".repeat(98)}...: a path of at most 107 bytes`],
  [
    "default_runtime = 7",
    "default_runtime: 7: a name of lower-case letters, digits, dots and hyphens, as RuntimeClass has them",
  ],
  ['default_runtime = "kata"', 'default_runtime: "kata": one of the runtimes: crun, runc, firecracker'],
  ["runtimes = 5", "runtimes: 5: a table of runtimes"],
  ["[runtimes]", "runtimes: at least one runtime must be there"],
  ["[runtimes]\ncrun = 5", 'runtimes.crun: 5: a table with type = "oci" or "microvm"'],
  ['[runtimes.crun]\npath = "crun"', 'runtimes.crun.type: a table with type = "oci" or "microvm"'],
  [
    '[runtimes.crun]\ntype = "docker"',
    'runtimes.crun.type: "docker": a table with type = "oci" or "microvm"',
  ],
  [
    '[runtimes."a b"]\ntype = "oci"\npath = "crun"',
    'runtimes."a b": "a b": a name of lower-case letters, digits, dots and hyphens, as RuntimeClass has them',
  ],
  [oci(""), "runtimes.crun.path: this key must be there"],
  [oci('pth = "crun"'), "runtimes.crun.pth: unknown key; did you mean path? known here: type, path"],
  [oci("path = 5"), "runtimes.crun.path: 5: a program's name or absolute path"],
  [oci('path = "./crun"'), 'runtimes.crun.path: "./crun": a program\'s name or absolute path'],
  [oci('path = "/none"'), 'runtimes.crun.path: "/none": no such file'],
  [oci('path = "/etc"'), 'runtimes.crun.path: "/etc": not a file'],
  [oci(`path = "${noProgram}"`), `runtimes.crun.path: "${noProgram}": not a program: it is not executable`],
  [oci('path = "crun"\nvcpus = 1'), "runtimes.crun.vcpus: unknown key; known here: type, path"],
  [vm("vmm = 1"), `runtimes.x.vmm: 1: ${vmm}`],
  [vm('vmm = "qemu"'), `runtimes.x.vmm: "qemu": ${vmm}`],
  [vm('vmm = "/none"'), 'runtimes.x.vmm: "/none": no such file'],
  [vm(`vmm = "${noProgram}"`), `runtimes.x.vmm: "${noProgram}": not a program: it is not executable`],
  [vm('jailer = ""'), 'runtimes.x.jailer: "": "auto", "none" or an absolute path'],
  [vm('jailer = "/none"'), 'runtimes.x.jailer: "/none": no such file'],
  [vm('kernel = "vmlinux"'), 'runtimes.x.kernel: "vmlinux": an absolute path, or ""'],
  [vm('kernel = "/none"'), 'runtimes.x.kernel: "/none": no such file'],
  [vm('kernel = "/etc"'), 'runtimes.x.kernel: "/etc": not a file'],
  [vm("initrd = false"), 'runtimes.x.initrd: false: an absolute path, or ""'],
  [vm('initrd = "/none"'), 'runtimes.x.initrd: "/none": no such file'],
  [vm("boot_args = 1"), "runtimes.x.boot_args: 1: text"],
  [vm('boot_args = "a\\nb"'), 'runtimes.x.boot_args: "a\\nb": at most 1024 printable ASCII characters'],
  [vm("vcpus = 0"), "runtimes.x.vcpus: 0: a whole number from 1 to 32"],
  [vm("vcpus = 33"), "runtimes.x.vcpus: 33: a whole number from 1 to 32"],
  [vm("vcpus = 1.5"), "runtimes.x.vcpus: 1.5: a whole number from 1 to 32"],
  [vm('vcpus = "2"'), 'runtimes.x.vcpus: "2": a whole number from 1 to 32'],
  [vm("memory_mib = 95"), "runtimes.x.memory_mib: 95: a whole number from 96 to 1048576"],
  [vm("memory_mib = nan"), "runtimes.x.memory_mib: NaN: a whole number from 96 to 1048576"],
  [
    vm("memory_mb = 256"),
    "runtimes.x.memory_mb: unknown key; did you mean memory_mib? known here: type, vmm, jailer, kernel, initrd, boot_args, vcpus, memory_mib",
  ],
  ["cni = []", "cni: []: a table"],
  ["cni = 5", "cni: 5: a table"],
  ["[cni]\nconf_dir = 5", `cni.conf_dir: 5: ${path}`],
  ['[cni]\nconf_dir = "net.d"', `cni.conf_dir: "net.d": ${notRoot}`],
  ['[cni]\nbin_dirs = "/opt"', 'cni.bin_dirs: "/opt": a list of paths'],
  ["[cni]\nbin_dirs = []", "cni.bin_dirs: []: at least one path"],
  [
    '[cni]\ndefault_network = "../x"',
    'cni.default_network: "../x": a CNI network\'s name, or "" for that of the first file',
  ],
  ['[cni]\nbin_dirs = ["/opt", 5]', `cni.bin_dirs.1: 5: ${path}`],
  [
    "[cni]\nbindirs = []",
    "cni.bindirs: unknown key; did you mean bin_dirs? known here: conf_dir, bin_dirs, default_network",
  ],
  ["images = 5", "images: 5: a table"],
  [
    "[images]\npined = []",
    "images.pined: unknown key; did you mean pinned? known here: unqualified_search_registries, short_name_mode, aliases, auth_files, credential_helpers_dir, pinned, progress_timeout_seconds, default_policy, policy",
  ],
  [
    '[images]\nunqualified_search_registries = "docker.io"',
    'images.unqualified_search_registries: "docker.io": a list of registries\' hosts',
  ],
  [
    '[images]\nunqualified_search_registries = ["http://a"]',
    'images.unqualified_search_registries.0: "http://a": a registry\'s host, maybe with a port',
  ],
  [
    '[images]\nshort_name_mode = "strict"',
    'images.short_name_mode: "strict": enforcing, permissive, disabled',
  ],
  [
    '[images.aliases]\n"a:1" = "b.c/d"',
    'images.aliases."a:1": "a:1": an image\'s name without registry, tag and digest',
  ],
  ['[images.aliases]\na = "b"', 'images.aliases.a: "b": REGISTRY/NAME, without tag and digest'],
  ['[images]\nauth_files = ["auth.json"]', 'images.auth_files.0: "auth.json": an absolute path other than /'],
  [
    '[images]\ncredential_helpers_dir = "bin"',
    'images.credential_helpers_dir: "bin": an absolute path other than /',
  ],
  ['[images]\npinned = ["a*b"]', 'images.pinned.0: "a*b": an image\'s name: whole, begin*, or *part*'],
  [
    "[images]\nprogress_timeout_seconds = 0",
    "images.progress_timeout_seconds: 0: a whole number from 1 to 3600",
  ],
  [
    '[images]\ndefault_policy = "sigstoreSigned"',
    'images.default_policy: "sigstoreSigned": "insecureAcceptAnything" or "reject"',
  ],
  [
    '[images.policy.alpine]\ntype = "reject"',
    'images.policy.alpine: "alpine": REGISTRY or REGISTRY/PATH (docker.io/library), without tag and digest',
  ],
  [
    '[images.policy."a.b/c:1"]\ntype = "reject"',
    'images.policy."a.b/c:1": "a.b/c:1": REGISTRY or REGISTRY/PATH (docker.io/library), without tag and digest',
  ],
  [
    '[images.policy."a.b/c"]\ntype = "signedBy"',
    'images.policy."a.b/c".type: "signedBy": "insecureAcceptAnything", "reject" or "sigstoreSigned" (GPG\'s signedBy and keyless signing are not supported)',
  ],
  [
    '[images.policy."a.b/c"]\nkeys = []',
    'images.policy."a.b/c".type: "insecureAcceptAnything", "reject" or "sigstoreSigned" (GPG\'s signedBy and keyless signing are not supported)',
  ],
  ['[images.policy."a.b/c"]\ntype = "sigstoreSigned"', 'images.policy."a.b/c".keys: this key must be there'],
  [
    '[images.policy."a.b/c"]\ntype = "sigstoreSigned"\nkeys = []',
    'images.policy."a.b/c".keys: []: a list of at least one public key\'s absolute path',
  ],
  [
    '[images.policy."a.b/c"]\ntype = "sigstoreSigned"\nkeys = ["cosign.pub"]',
    'images.policy."a.b/c".keys.0: "cosign.pub": an absolute path other than /',
  ],
  [
    '[images.policy."a.b/c"]\ntype = "sigstoreSigned"\nkeys = ["/none.pub"]',
    'images.policy."a.b/c".keys.0: "/none.pub": no such file',
  ],
  [
    '[images.policy."a.b/c"]\ntype = "sigstoreSigned"\nkeys = ["/etc/hostname"]',
    'images.policy."a.b/c".keys.0: "/etc/hostname": not a public key in PEM (BEGIN PUBLIC KEY), as cosign.pub is',
  ],
  [
    '[images.policy."a.b/c"]\ntype = "sigstoreSigned"\nkeys = ["/x"]\nfulcio = { }',
    'images.policy."a.b/c".fulcio: keyless signing (Fulcio, Rekor, a PKI) is not supported: give the signers\' public keys in keys',
  ],
  [
    '[images.policy."a.b/c"]\ntype = "sigstoreSigned"\nkeys = ["/x"]\nrekor_keys = ["/y"]',
    'images.policy."a.b/c".rekor_keys: keyless signing (Fulcio, Rekor, a PKI) is not supported: give the signers\' public keys in keys',
  ],
  [
    '[images.policy."a.b/c"]\ntype = "sigstoreSigned"\nkeys = ["/x"]\nsigned_identity = "exact"',
    'images.policy."a.b/c".signed_identity: "exact": matchRepository or matchRepoDigestOrExact or matchDigest',
  ],
  [
    '[images.policy."a.b/c"]\ntype = "reject"\nkeys = ["/x"]',
    'images.policy."a.b/c".keys: unknown key; known here: type',
  ],
  ["registries = 5", "registries: 5: a table of registries"],
  ["[registries]\na = 5", "registries.a: 5: a table"],
  ['[registries."a b"]\nmirrors = []', 'registries."a b": "a b": a registry\'s host, maybe with a port'],
  ['[registries."a.b"]', 'registries."a.b".mirrors: this key must be there'],
  [
    '[registries."a.b"]\nmirors = []',
    'registries."a.b".mirors: unknown key; did you mean mirrors? known here: mirrors',
  ],
  [mirrors('"http://x"'), 'registries."a.b".mirrors: "http://x": a list of URLs'],
  [mirrors("[5]"), `registries."a.b".mirrors.0: 5: ${url}`],
  [mirrors('["http://a", "localhost:5000"]'), `registries."a.b".mirrors.1: "localhost:5000": ${url}`],
  [mirrors('["ftp://x"]'), `registries."a.b".mirrors.0: "ftp://x": ${url}`],
  [mirrors('["http://u:p@x"]'), `registries."a.b".mirrors.0: "http://u:p@x": ${url}`],
  [mirrors('["http://x:99999"]'), `registries."a.b".mirrors.0: "http://x:99999": ${url}`],
  [mirrors('["http://x?y"]'), `registries."a.b".mirrors.0: "http://x?y": ${url}`],
];

/** What is no TOML is named by line and column. */
const notToml: readonly (readonly [string, RegExp])[] = [
  ['root = "/a"\nstate = [', /:2:\d+: /],
  ['[runtimes.crun]\ntype = "oci"\npath = "crun"\n[runtimes.crun]\n', /:4:2: .*redefine/],
  ['root = "/a"\nroot = "/b"', /:2:\d+: .*redefine/],
  ["a", /:1:\d+: /],
];

describe("tinderboxd refuses", () => {
  test("every wrong key and value, with file, key, value and what is allowed", async () => {
    const one = async ([text, expected]: readonly [string, string], n: number): Promise<void> => {
      const config = join(work, `${n}.toml`);
      writeFileSync(config, text);
      const { code, err } = await run(["--config", config]);
      assert.equal(err, `tinderboxd: ${config}: ${expected}\n`, text);
      assert.equal(code, 2, text);
    };
    // Two at a time: so many cores are there.
    const todo = [...mistakes.entries()];
    const work2 = async (): Promise<void> => {
      for (let next = todo.pop(); next !== undefined; next = todo.pop()) await one(next[1], next[0]);
    };
    await Promise.all([work2(), work2()]);
  });

  test("what is no TOML, by line", async () => {
    for (const [text, expected] of notToml) {
      writeFileSync(file, text);
      const { code, err } = await run(["--config", file]);
      assert.match(err, expected, text);
      assert.ok(err.startsWith(`tinderboxd: ${file}:`), err);
      assert.equal(code, 2);
    }
  });

  test("files and places that cannot be", async () => {
    writeFileSync(file, "");
    const plain = join(work, "plain");
    writeFileSync(plain, "");
    const cases: [string[], RegExp][] = [
      [["--config", "/none.toml"], /^tinderboxd: \/none\.toml: no such file\n$/],
      [["--config", work], /^tinderboxd: \/tmp\/tb-config-\w+: EISDIR/],
      [["--root", "rel"], /^tinderboxd: --root rel: an absolute path other than \/, without `\.\.`\n$/],
      [["--state", "/a/../b"], /^tinderboxd: --state \/a\/\.\.\/b: an absolute path/],
      [["--log-level", "loud"], /^tinderboxd: --log-level loud: allowed are debug, info, warn, error\n$/],
      [["--log-format", "xml"], /^tinderboxd: --log-format xml: allowed are text, json\n$/],
      [["--nonsense"], /^tinderboxd: Unknown option '--nonsense'/],
      [["extra"], /^tinderboxd: Unexpected argument 'extra'/],
      [["--root", plain, "--state", join(work, "s")], /^tinderboxd: --root or root: ".*plain": .*\n$/],
      [
        ["--root", join(work, "r"), "--state", join(plain, "s")],
        /^tinderboxd: --state or state: ".*plain\/s": .*\n$/,
      ],
      [
        ["--root", join(work, "r"), "--state", join(work, "s"), "--listen", plain],
        /listen .*plain: a file that is not a socket is there\n$/,
      ],
    ];
    for (const [args, expected] of cases) {
      const { code, err } = await run(args);
      assert.match(err, expected, args.join(" "));
      assert.equal(code, 2, args.join(" "));
    }
  });
});

test("the issue's example works as it stands", async () => {
  const root = join(work, "root");
  const example = readFileSync(join(import.meta.dirname, "support/example-config.toml"), "utf8");
  // Only the places are a test's own.
  const [, ...rest] = example.split(/^(?=default_runtime)/m);
  assert.match(example, /^root = "\/var\/lib\/tinderbox"/);
  const daemon = await startDaemon({
    root,
    state: join(work, "state"),
    configToml: rest.join("").replace("/etc/cni/net.d", join(work, "net.d")),
  });
  await daemon.stop();
  assert.ok(readdirSync(root).includes("images"));
});
