/**
 * The images that critest asks for, made of Debian's packages and pushed to a local registry under the paths that they
 * have at home. What a spec needs of an image (exact messages, users, ports) was found out by running it.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { pack } from "tar-stream";
import { pushImage } from "../support/busybox-image.ts";

/** What `tools/setup.sh conformance` has extracted of Debian: busybox with libraries, procps, util-linux, nginx. */
const debian: string = join(import.meta.dirname, "../../.cache/conformance/debian");

type Entry =
  | { readonly kind: "directory"; readonly mode: number }
  | { readonly kind: "file"; readonly mode: number; readonly content: Buffer }
  | { readonly kind: "link"; readonly to: string };
type Tree = ReadonlyMap<string, Entry>;

const directory = (mode = 0o755): Entry => ({ kind: "directory", mode });
const file = (content: string | Buffer, mode = 0o644): Entry => ({
  kind: "file",
  mode,
  content: Buffer.from(content),
});

/** One layer; parents of a path come before it, once. */
async function layerOf(tree: Tree): Promise<Buffer> {
  const tar = pack();
  const mtime = new Date(0);
  const made = new Set<string>();
  for (const [path, entry] of tree) {
    const parts = path.split("/");
    for (let n = 1; n < parts.length; n++) {
      const parent = parts.slice(0, n).join("/");
      if (made.has(parent) || tree.has(parent)) continue;
      made.add(parent);
      tar.entry({ name: `${parent}/`, type: "directory", mode: 0o755, mtime });
    }
    if (entry.kind === "directory")
      tar.entry({ name: `${path}/`, type: "directory", mode: entry.mode, mtime });
    // containerd gives the file the mode of its last link.
    else if (entry.kind === "link")
      tar.entry({ name: path, type: "link", linkname: entry.to, mode: 0o755, mtime });
    else tar.entry({ name: path, mode: entry.mode, mtime }, entry.content);
  }
  tar.finalize();
  return buffer(tar);
}

const inDebian = (path: string): Buffer => readFileSync(realpathSync(join(debian, path)));

/** A program of the extracted Debian with its loader and libraries, each at its own path. */
function program(path: string, at = path): [string, Entry][] {
  const loader = "/lib64/ld-linux-x86-64.so.2";
  const said = execFileSync("chroot", [debian, loader, "--list", `/${path}`], { encoding: "utf8" });
  const libraries = [...new Set(said.match(/\/\S+/g) ?? []), loader];
  return [
    [at, file(inDebian(path), 0o755)],
    ...libraries.map((library): [string, Entry] => [library.slice(1), file(inDebian(library), 0o755)]),
  ];
}

/** A static program from a few lines of C. */
function compiled(source: string): Buffer {
  const work = mkdtempSync(join(tmpdir(), "tb-image-"));
  try {
    writeFileSync(join(work, "p.c"), source);
    execFileSync("cc", ["-O2", "-static", "-s", "-o", join(work, "p"), join(work, "p.c")]);
    return readFileSync(join(work, "p"));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

const passwd = `root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
`;
const group = "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n";

/**
 * The tools that most specs call. The applets are hard links: a spec masks /bin/ls, and through a symbolic link that
 * would hide busybox itself. pgrep and ipcs are the real ones; Debian's busybox has none.
 */
function tools(): Tree {
  const directories = "proc sys dev run root home var/run var/www usr/bin".split(" ");
  const applets = execFileSync("chroot", [debian, "/bin/busybox", "--list"], { encoding: "utf8" }).split(
    "\n",
  );
  return new Map<string, Entry>([
    ...directories.map((path): [string, Entry] => [path, directory()]),
    ["tmp", directory(0o1777)],
    ["etc/passwd", file(passwd)],
    ["etc/group", file(group)],
    ...program("bin/busybox"),
    ...program("usr/bin/pgrep", "bin/pgrep"),
    ...program("usr/bin/ipcs", "bin/ipcs"),
    ...applets
      .filter((name) => !["", "busybox", "pgrep", "ipcs"].includes(name))
      .map((name): [string, Entry] => [`bin/${name}`, { kind: "link", to: "bin/busybox" }]),
  ]);
}

function nginx(port: number): Tree {
  const config = `user root; worker_processes 1; pid /var/run/nginx.pid; error_log /dev/stderr; events {}
http { access_log /dev/stdout; server { listen ${port}; root /www; } }
`;
  const empty = [
    "var/log/nginx",
    "var/lib/nginx",
    ...["body", "fastcgi", "proxy", "scgi", "uwsgi"].map((name) => `var/lib/nginx/${name}`),
  ];
  return new Map<string, Entry>([
    ...empty.map((path): [string, Entry] => [path, directory()]),
    ...program("usr/sbin/nginx"),
    ["www/index.html", file("Welcome to nginx!\n")],
    ["etc/nginx/nginx.conf", file(config)],
  ]);
}

const effectiveUid = `#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %d\\n", geteuid()); return 0; }
`;
const pause = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";

/** Makes and pushes all of them. Needs root (chroot) and cc. */
export async function pushConformanceImages(registry: string): Promise<void> {
  const base = await layerOf(tools());
  const push = async (names: readonly string[], config: object, trees: readonly Tree[], bottom = [base]) => {
    const layers = [...bottom, ...(await Promise.all(trees.map(layerOf)))];
    const Env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    for (const name of names) {
      const [path = "", tag = "latest"] = name.split(":");
      await pushImage(registry, path, tag, layers, { Env, ...config });
    }
  };
  const sh = { Cmd: ["sh"] };
  const web = { Entrypoint: ["/usr/sbin/nginx"], Cmd: ["-g", "daemon off;"] };
  const named = (name: string): Tree => new Map([["etc/which-image", file(name)]]);

  await push(["e2e-test-images/busybox:1.29-2"], sh, []);
  await push(["e2e-test-images/nginx:1.14-2"], web, [nginx(80)]);
  await push(["k8s-staging-cri-tools/hostnet-nginx-amd64"], web, [nginx(12003)]);
  const serve = "echo 'httpd: resuming normal operations'; exec httpd -f -v -p 80 -h /www";
  await push(["e2e-test-images/httpd:2.4.39-4"], { Cmd: ["sh", "-c", serve] }, [
    new Map([["www/index.html", file("It works!\n")]]),
  ]);
  await push(["e2e-test-images/nonewprivs:1.3"], { Entrypoint: ["/nnp"] }, [
    new Map([["nnp", file(compiled(effectiveUid), 0o4755)]]),
  ]);
  const plain = ["latest", "tag:test", "tag:all", "1", "2", "3"].map((name) => `test-image-${name}`);
  for (const name of plain) {
    await push([`k8s-staging-cri-tools/${name}`], { Cmd: ["sh", "-c", "sleep 3600"] }, [named(name)]);
  }
  const tags = ["1", "2", "3"].map((tag) => `k8s-staging-cri-tools/test-image-tags:${tag}`);
  await push(tags, sh, [named("tags")]);
  const users = {
    uid: "1002",
    username: "www-data",
    "uid-group": "1003:1004",
    "username-group": "www-data:1004",
  };
  for (const [name, User] of Object.entries(users)) {
    await push([`k8s-staging-cri-tools/test-image-user-${name}`], { ...sh, User }, [named(name)]);
  }
  await push(["k8s-staging-cri-tools/test-image-predefined-group"], { ...sh, User: "1000" }, [
    new Map([
      ["etc/passwd", file(`${passwd}default-user:x:1000:1000::/home/default-user:/bin/sh\n`)],
      ["etc/group", file(`${group}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n`)],
    ]),
  ]);
  await push(
    ["pause:3.9"],
    { Entrypoint: ["/pause"] },
    [new Map([["pause", file(compiled(pause), 0o755)]])],
    [],
  );
}
