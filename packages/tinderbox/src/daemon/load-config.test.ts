import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { defaultConfig } from "./default-config.ts";
import { loadConfig, parseConfig } from "./load-config.ts";

const example = `
root = "/var/lib/tinderbox"
state = "/run/tinderbox"
listen = "/run/tinderbox/tinderbox.sock"
default_runtime = "crun"
cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]

[runtimes.crun]
type = "oci"
path = "crun"

[runtimes.runc]
type = "oci"
path = "runc"

[runtimes.firecracker]
type = "microvm"
vmm = "auto"
kernel = ""
initrd = ""
boot_args = ""
vcpus = 1
memory_mib = 256

[cni]
conf_dir = "/etc/cni/net.d"
bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]

[registries."registry.k8s.io"]
mirrors = ["http://127.0.0.1:5000"]
`;

test("parseConfig: the example is the defaults and a mirror", () => {
  assert.deepEqual(parseConfig(example, "f"), {
    ...defaultConfig,
    images: {
      ...defaultConfig.images,
      registries: new Map([["registry.k8s.io", { mirrors: ["http://127.0.0.1:5000"] }]]),
    },
  });
});

test("parseConfig: all that can be said of images", (t) => {
  const directory = mkdtempSync("/tmp/tb-config-");
  t.after(() => rmSync(directory, { recursive: true }));
  const key = join(directory, "cosign.pub");
  const { publicKey } = generateKeyPairSync("ed25519");
  writeFileSync(key, publicKey.export({ type: "spki", format: "pem" }));
  const { images } = parseConfig(
    `[images]
unqualified_search_registries = ["registry.example:5000", "docker.io"]
short_name_mode = "permissive"
auth_files = ["/etc/auth.json"]
credential_helpers_dir = "/opt/helpers"
pinned = ["a*", "*b*", "c.d/e:f"]
progress_timeout_seconds = 7
default_policy = "reject"
[images.aliases]
"team/app" = "registry.example/team/app"
[images.policy."localhost:5000/free"]
type = "insecureAcceptAnything"
[images.policy."registry.example"]
type = "sigstoreSigned"
keys = ["${key}"]
[registries."Registry.Example"]
mirrors = ["https://mirror.example/x"]
`,
    "f",
  );
  const { policy, ...others } = images;
  assert.deepEqual(others, {
    registries: new Map([["registry.example", { mirrors: ["https://mirror.example/x"] }]]),
    shortNames: {
      searchRegistries: ["registry.example:5000", "docker.io"],
      aliases: new Map([["team/app", "registry.example/team/app"]]),
      mode: "permissive",
    },
    auth: { files: ["/etc/auth.json"], helpersDir: "/opt/helpers" },
    pinned: ["a*", "*b*", "c.d/e:f"],
    stallMs: 7000,
  });
  assert.deepEqual(policy.default, { type: "reject" });
  assert.deepEqual(policy.scopes.get("localhost:5000/free"), { type: "insecureAcceptAnything" });
  const rule = policy.scopes.get("registry.example");
  assert.ok(rule?.type === "sigstoreSigned");
  assert.equal(rule.signedIdentity, "matchRepository");
  assert.deepEqual(
    rule.keys[0]?.export({ type: "spki", format: "pem" }),
    publicKey.export({ type: "spki", format: "pem" }),
  );
});

test("parseConfig: an empty file is the defaults", () => {
  assert.deepEqual(parseConfig("", "f"), defaultConfig);
});

const faults: readonly (readonly [string, string, RegExp])[] = [
  ["bad syntax names the line", 'root = "/a"\nstate = [', /^f:2:\d+: /],
  [
    "an unknown key is named with the known ones",
    'rot = "/a"',
    /^f: rot: .*unknown key; did you mean root\? known here: root, state, listen/,
  ],
  [
    "an unknown key of a runtime",
    '[runtimes.crun]\ntype="oci"\npath="crun"\nvcpus=1',
    /^f: runtimes\.crun\.vcpus: unknown key; known here: type, path/,
  ],
  ["a wrong type shows the value", "root = 5", /^f: root: 5: an absolute path/],
  ["a relative path", 'state = "run"', /^f: state: "run": an absolute path/],
  ["a missing key", '[runtimes.crun]\ntype = "oci"', /^f: runtimes\.crun\.path: this key must be there/],
  [
    "an unknown runtime type",
    '[runtimes.x]\ntype = "docker"',
    /^f: runtimes\.x.*"docker": .*"oci" or "microvm"/,
  ],
  [
    "a figure out of range",
    '[runtimes.x]\ntype = "microvm"\nvcpus = 0',
    /^f: runtimes\.x\.vcpus: 0: a whole number from 1 to 32/,
  ],
  [
    "a default runtime that is not there",
    'default_runtime = "kata"',
    /^f: default_runtime: "kata": one of the runtimes: crun, runc, firecracker/,
  ],
  [
    "a kernel that is not there",
    '[runtimes.crun]\ntype = "microvm"\nkernel = "/none"',
    /^f: runtimes\.crun\.kernel: "\/none": no such file/,
  ],
  [
    "a mirror that is no URL",
    '[registries."a.b"]\nmirrors = ["localhost:5000"]',
    /^f: registries\."a\.b"\.mirrors\.0: "localhost:5000": an http/,
  ],
  ["a log level that is none", 'log_level = "loud"', /^f: log_level: "loud": debug, info, warn, error/],
  [
    "metrics for everybody",
    '[metrics]\nlisten = "0.0.0.0:9745"',
    /^f: metrics\.listen: "0\.0\.0\.0:9745": .*loopback/,
  ],
  ["a metrics port too high", '[metrics]\nlisten = "127.0.0.1:70000"', /^f: metrics\.listen: .*loopback/],
  [
    "a socket path too long for the kernel",
    `listen = "/${"x".repeat(108)}"`,
    /^f: listen: .*at most 107 bytes/,
  ],
];

for (const [name, text, expected] of faults) {
  test(`parseConfig: ${name}`, () => {
    assert.throws(
      () => parseConfig(text, "f"),
      (error: { code?: string; message: string }) => {
        assert.equal(error.code, "CONFIG");
        assert.match(error.message, expected);
        return true;
      },
    );
  });
}

test("loadConfig: a file that is named must exist", () => {
  assert.throws(() => loadConfig("/none/x.toml"), { code: "CONFIG", message: "/none/x.toml: no such file" });
});

test("loadConfig: drop-ins replace single keys, runtimes and registries, in the order of their names", (t) => {
  const directory = mkdtempSync("/tmp/tb-config-");
  t.after(() => rmSync(directory, { recursive: true }));
  const file = join(directory, "config.toml");
  const dropIn = (name: string, text: string): void => {
    mkdirSync(`${file}.d`, { recursive: true });
    writeFileSync(join(`${file}.d`, name), text);
  };
  writeFileSync(file, example);
  dropIn("20-b.toml", '[runtimes.crun]\ntype = "oci"\npath = "crun-b"\n');
  dropIn("10-a.toml", 'log_level = "warn"\n[runtimes.crun]\ntype = "oci"\npath = "crun-a"\n');
  dropIn(
    "30-c.toml",
    '[registries."docker.io"]\nmirrors = ["http://127.0.0.1:5001"]\n[cni]\nconf_dir = "/c"\n[images]\npinned = ["a.b/c"]\n[images.policy."a.b"]\ntype = "reject"\n',
  );
  dropIn("35-d.toml", '[images.policy."c.d"]\ntype = "reject"\n');
  dropIn("40-not-toml.conf", "nonsense");
  const config = loadConfig(file);
  assert.equal(config.logLevel, "warn");
  assert.deepEqual(config.runtimes.get("crun"), { type: "oci", name: "crun", path: "crun-b" });
  assert.ok(config.runtimes.has("firecracker"));
  assert.deepEqual([...config.images.registries.keys()], ["registry.k8s.io", "docker.io"]);
  assert.deepEqual([...config.images.policy.scopes.keys()], ["a.b", "c.d"]);
  assert.deepEqual(config.images.pinned, ["a.b/c"]);
  assert.deepEqual(config.cni, { ...defaultConfig.cni, confDir: "/c" });
  dropIn("50-bad.toml", "root = 5");
  assert.throws(() => loadConfig(file), { code: "CONFIG", message: /50-bad\.toml: root: 5/ });
});
