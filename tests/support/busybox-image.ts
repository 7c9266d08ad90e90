/** The demo's image: Debian's static busybox and a link for each of its applets, pushed by plain HTTP. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { buffer } from "node:stream/consumers";
import { gzipSync } from "node:zlib";
import { pack } from "tar-stream";

function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

async function busyboxLayer(): Promise<Buffer> {
  const tar = pack();
  const mtime = new Date(0);
  for (const directory of ["bin", "etc", "dev", "proc", "sys", "root"]) {
    tar.entry({ name: `${directory}/`, type: "directory", mode: 0o755, mtime });
  }
  tar.entry({ name: "tmp/", type: "directory", mode: 0o1777, mtime });
  tar.entry({ name: "bin/busybox", mode: 0o755, mtime }, readFileSync("/bin/busybox"));
  const applets = spawnSync("/bin/busybox", ["--list"], { encoding: "utf8" }).stdout.split("\n");
  for (const applet of applets) {
    if (applet === "" || applet === "busybox") continue;
    tar.entry({ name: `bin/${applet}`, type: "symlink", linkname: "busybox", mtime });
  }
  tar.entry(
    { name: "etc/passwd", mtime },
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
  );
  tar.entry({ name: "etc/group", mtime }, "root:x:0:\nnogroup:x:65534:\n");
  tar.finalize();
  return buffer(tar);
}

async function pushBlob(registry: string, name: string, bytes: Uint8Array): Promise<void> {
  const begun = await fetch(`${registry}/v2/${name}/blobs/uploads/`, { method: "POST" });
  const location = new URL(begun.headers.get("location") ?? "", registry);
  location.searchParams.set("digest", digestOf(bytes));
  const put = await fetch(location, { method: "PUT", body: Buffer.from(bytes) });
  if (put.status !== 201) throw new Error(`push of a blob: HTTP ${put.status}: ${await put.text()}`);
}

/** Pushes an image made of `layers` (plain tars, bottom first); gives the manifest's digest. */
export async function pushImage(
  registry: string,
  name: string,
  tag: string,
  layers: readonly Buffer[],
  config: object,
): Promise<string> {
  const zipped = layers.map((layer) => gzipSync(layer, { level: 1 }));
  const configBytes = Buffer.from(
    JSON.stringify({
      architecture: process.arch === "x64" ? "amd64" : process.arch,
      os: "linux",
      config,
      rootfs: { type: "layers", diff_ids: layers.map(digestOf) },
    }),
  );
  for (const blob of [...zipped, configBytes]) await pushBlob(registry, name, blob);
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType,
    config: {
      mediaType: "application/vnd.oci.image.config.v1+json",
      digest: digestOf(configBytes),
      size: configBytes.length,
    },
    layers: zipped.map((blob) => ({
      mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      digest: digestOf(blob),
      size: blob.length,
    })),
  });
  const put = await fetch(`${registry}/v2/${name}/manifests/${tag}`, {
    method: "PUT",
    body: manifest,
    headers: { "content-type": mediaType },
  });
  if (put.status !== 201) throw new Error(`push of the manifest: HTTP ${put.status}: ${await put.text()}`);
  return digestOf(Buffer.from(manifest));
}

/** Pushes the busybox image, with `more` layers on it. */
export async function pushBusyboxImage(
  registry: string,
  name: string,
  tag: string,
  more: readonly Buffer[] = [],
): Promise<string> {
  const config = { Env: ["PATH=/bin"], Cmd: ["/bin/sh"], WorkingDir: "/" };
  return pushImage(registry, name, tag, [await busyboxLayer(), ...more], config);
}
