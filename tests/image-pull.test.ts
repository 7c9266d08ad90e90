/** Pulls from registries that fail in every way: the right error, saying who did what, and nothing left behind. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import type { ImageService, RegistryAuth } from "../packages/tinderbox/src/image/contract.ts";
import { openImageService } from "../packages/tinderbox/src/image/image-service.ts";
import { defaultImageSettings } from "../packages/tinderbox/src/image/image-settings.ts";
import { mediaTypes, ownArchitecture, sha256 } from "./support/oci-layout.ts";
import { type Exchange, OwnRegistry } from "./support/own-registry.ts";

const work = mkdtempSync("/tmp/tb-pull-");
const patience = { stallMs: 300, pauseMs: 10 };
let registry: OwnRegistry;
let other: OwnRegistry;
let images: ImageService;
let root: string;
let count = 0;

/** A layer of a few MiB that no compression makes small. */
const layer = ((): Buffer => {
  writeFileSync(join(work, "big"), randomBytes(3 << 20));
  return execFileSync("tar", ["-C", work, "-cf", "-", "big"], { maxBuffer: 1 << 24 });
})();
const layerPath = `/v2/a/b/blobs/${sha256(layer)}`;

const left = (): string[] =>
  [...readdirSync(join(root, "images/blocks")), ...readdirSync(join(root, "images/ingest"))].sort();

async function openImages(mirrors: readonly string[] = []): Promise<ImageService> {
  return await openImageService({
    root,
    settings: () => ({ ...defaultImageSettings, registries: new Map([[registry.host, { mirrors }]]) }),
    logger: createLogger({ level: "error", format: "text" }),
    patience,
  });
}

before(async () => {
  registry = await new OwnRegistry().start();
  other = await new OwnRegistry().start();
});
after(async () => {
  await registry.stop();
  await other.stop();
  rmSync(work, { recursive: true, force: true });
});
beforeEach(async () => {
  root = join(work, `root-${count++}`);
  for (const one of [registry, other]) {
    one.misbehave = undefined;
    one.requests.length = 0;
    one.authorizations.length = 0;
    one.image("a/b", [layer]);
  }
  images = await openImages();
});
afterEach(async () => {
  await images.close();
});

const name = (): string => `${registry.host}/a/b:latest`;
const pull = (auth?: RegistryAuth) => images.pull(name(), auth === undefined ? {} : { auth });

/** Misbehaves at one path, the first `times`. */
function at(path: RegExp, act: (exchange: Exchange) => void, times = Number.POSITIVE_INFINITY): void {
  let done = 0;
  registry.misbehave = (exchange) => {
    if (path.test(exchange.path) && done++ < times) act(exchange);
    else exchange.serve();
  };
}

const manifestPath = /\/manifests\//;
const layerAt = new RegExp(layerPath);
const status =
  (code: number, headers: Record<string, string> = {}, text = '{"errors":[]}') =>
  ({ response }: Exchange): void =>
    void response.writeHead(code, headers).end(text);

describe("faults that pass", () => {
  const passing: Record<string, () => void> = {
    "500 twice": () => at(manifestPath, status(500), 2),
    "503 for a blob": () => at(layerAt, status(503), 1),
    "429 with Retry-After": () => at(manifestPath, status(429, { "retry-after": "1" }), 1),
    "a connection that is closed without an answer": () =>
      at(manifestPath, ({ request }) => void request.socket.destroy(), 1),
    "an answer that never comes": () => at(manifestPath, () => {}, 1),
    "a body that stops coming": () =>
      at(
        layerAt,
        ({ response }) => {
          response.writeHead(200, { "content-length": layer.length });
          response.write(layer.subarray(0, 1000));
        },
        1,
      ),
    "a redirect": () =>
      at(
        layerAt,
        ({ response, path }) => void response.writeHead(307, { location: `${other.url}${path}` }).end(),
      ),
  };
  for (const [what, misbehave] of Object.entries(passing)) {
    test(what, async () => {
      misbehave();
      assert.deepEqual((await pull()).repoTags, [name()]);
      assert.equal(left().length, 1);
    });
  }

  test("a registry that wants to be left alone for long is not asked again, and not waited for", async () => {
    at(layerAt, status(429, { "retry-after": new Date(Date.now() + 600_000).toUTCString() }));
    await assert.rejects(pull(), { code: "REGISTRY", message: /try again after \d{3} s/ });
    assert.equal(registry.requests.filter((one) => one === layerPath).length, 1);
  });

  test("a download that is cut again and again goes on where it was", async () => {
    // More cuts than tries without progress are borne.
    let cuts = 0;
    at(layerAt, ({ request, response, body }) => {
      const from = Number(/\d+/.exec(request.headers.range ?? "0")?.[0] ?? 0);
      const head = {
        "content-length": layer.length - from,
        "content-range": `bytes ${from}-${layer.length - 1}/${layer.length}`,
      };
      response.writeHead(from === 0 ? 200 : 206, head);
      const part = body?.subarray(from, from + 500_000) ?? Buffer.alloc(0);
      if (from + part.length >= layer.length) return void response.end(part);
      cuts++;
      response.write(part, () => setImmediate(() => response.destroy()));
    });
    assert.ok((await pull()).sizeBytes > 3 << 20);
    const ranges = registry.requests.filter((one) => one.startsWith(`${layerPath} bytes=`));
    assert.ok(cuts > 4 && ranges.length === cuts, `${cuts} cuts, ${ranges.join()}`);
  });

  test("a cut download is resumed by Range, and only the rest comes again", async () => {
    let sent = 0;
    at(
      layerAt,
      ({ response }) => {
        response.writeHead(200, { "content-length": layer.length });
        response.write(layer.subarray(0, 2 << 20), () => setImmediate(() => response.destroy()));
        sent++;
      },
      1,
    );
    const image = await pull();
    assert.equal(sent, 1);
    const [again] = registry.requests.filter((one) => one.includes("bytes="));
    const from = Number(/bytes=(\d+)-/.exec(again ?? "")?.[1]);
    assert.ok(from > 0 && from <= 2 << 20, `${again}`);
    assert.ok(image.sizeBytes > 3 << 20);
  });

  test("a registry that knows no Range is asked for the whole", async () => {
    at(layerAt, ({ response }) => {
      const isFirst = registry.requests.filter((one) => one.startsWith(layerPath)).length === 1;
      response.writeHead(200, { "content-length": layer.length });
      if (isFirst) response.write(layer.subarray(0, 1 << 20), () => setImmediate(() => response.destroy()));
      else response.end(layer);
    });
    assert.ok((await pull()).sizeBytes > 3 << 20);
  });
});

describe("faults that stay", () => {
  const tooLarge = (response: Exchange["response"]): void => {
    response.writeHead(200, { "content-type": mediaTypes.manifest });
    const more = (): void => {
      while (!response.destroyed && response.write(Buffer.alloc(1 << 16, 0x20)));
      if (!response.destroyed) response.once("drain", more);
    };
    response.on("error", () => {});
    more();
  };
  const withManifest = (content: object, mediaType?: string): void => {
    registry.manifest("a/b", content, mediaType);
  };
  const config = { digest: `sha256:${"0".repeat(64)}`, size: 2, mediaType: mediaTypes.config };

  const cases: Record<string, [string, RegExp, () => void]> = {
    "500 for ever": [
      "REGISTRY",
      /manifest latest: http:\/\/.* answered HTTP 500: "no disk"/,
      () => at(manifestPath, status(500, {}, "no disk")),
    ],
    "429 for ever": ["REGISTRY", /answered HTTP 429/, () => at(manifestPath, status(429))],
    "429 for a while": [
      "REGISTRY",
      /answered HTTP 429, try again after 3600 s: /,
      () => at(manifestPath, status(429, { "retry-after": "3600" })),
    ],
    "404": ["NOT_FOUND", /does not have it \(HTTP 404\)/, () => at(manifestPath, status(404))],
    "404 for a layer": ["NOT_FOUND", /blob sha256:\w+: .*does not have it/, () => at(layerAt, status(404))],
    "401 without a challenge": [
      "REGISTRY_AUTH",
      /refused access \(HTTP 401\)/,
      () => at(manifestPath, status(401)),
    ],
    "403": [
      "REGISTRY_AUTH",
      /refused access \(HTTP 403\): "go away"/,
      () => at(manifestPath, status(403, {}, "go away")),
    ],
    "418": ["REGISTRY", /answered HTTP 418/, () => at(manifestPath, status(418))],
    "an error that never ends": [
      "REGISTRY_AUTH",
      /HTTP 403/,
      () =>
        at(manifestPath, ({ response }) => {
          response.writeHead(403);
          const more = (): void => void (response.destroyed || response.write("x".repeat(65536), more));
          more();
        }),
    ],
    "no answer": ["REGISTRY", /no answer for 0\.3 s/, () => at(manifestPath, () => {})],
    "a body that hangs": [
      "REGISTRY",
      /no byte for 0\.3 s/,
      () =>
        at(layerAt, ({ response }) => {
          response.writeHead(200, { "content-length": layer.length });
          response.flushHeaders();
        }),
    ],
    "a body that is cut": [
      "REGISTRY",
      /the connection broke|ended at byte/,
      () =>
        at(layerAt, ({ response }) => {
          response.writeHead(200, { "content-length": layer.length });
          response.write(layer.subarray(0, 100), () => setImmediate(() => response.destroy()));
        }),
    ],
    "a Content-Length that is too small": [
      "REGISTRY",
      /the blob ended at byte 100 of/,
      () =>
        at(layerAt, ({ response }) => {
          response.writeHead(200, { "content-length": 100 });
          response.end(layer.subarray(0, 100));
        }),
    ],
    "15, a body with another digest (CVE-2020-15157)": [
      "IMAGE_DIGEST",
      /blob sha256:\w+ came with the digest sha256:/,
      () =>
        at(layerAt, ({ response }) => {
          const wrong = Buffer.from(layer);
          wrong[layer.length - 1] = 1;
          response.end(wrong);
        }),
    ],
    "a body that never ends": [
      "IMAGE_DIGEST",
      /is longer than \d+ bytes/,
      () => at(layerAt, ({ response }) => tooLarge(response)),
    ],
    "12, a manifest that never ends (CVE-2023-25153)": [
      "IMAGE_MALFORMED",
      /the manifest is over 4194304 bytes/,
      () => at(manifestPath, ({ response }) => tooLarge(response)),
    ],
    "a manifest that is no JSON": [
      "IMAGE_MALFORMED",
      /the manifest is not JSON/,
      () => at(manifestPath, ({ response }) => void response.end("<html>")),
    ],
    "a manifest of schema 1": [
      "IMAGE_MALFORMED",
      /schema 1 manifests are not supported/,
      () =>
        withManifest(
          { schemaVersion: 1, fsLayers: [] },
          "application/vnd.docker.distribution.manifest.v1+prettyjws",
        ),
    ],
    "a manifest that is an index too": [
      "IMAGE_MALFORMED",
      /both layers and manifests/,
      () => withManifest({ config, layers: [], manifests: [] }),
    ],
    "a digest that is a path": [
      "IMAGE_MALFORMED",
      /config\.digest: must be a digest/,
      () => withManifest({ config: { ...config, digest: "sha256:../../../../etc/passwd" }, layers: [] }),
    ],
    "a layer over the limit": [
      "IMAGE_MALFORMED",
      /layers\.0\.size/,
      () => withManifest({ config, layers: [{ ...config, size: 2 ** 40 }] }),
    ],
    "layers over the limit together": [
      "IMAGE_MALFORMED",
      /at most 34359738368 are allowed/,
      () => withManifest({ config, layers: Array.from({ length: 3 }, () => ({ ...config, size: 2 ** 34 })) }),
    ],
    "a negative size": [
      "IMAGE_MALFORMED",
      /config\.size/,
      () => withManifest({ config: { ...config, size: -1 }, layers: [] }),
    ],
    "13, 257 layers (no CVE)": [
      "IMAGE_MALFORMED",
      /layers: .*256/,
      () => withManifest({ config, layers: Array.from({ length: 257 }, () => config) }),
    ],
    "a config over the limit": [
      "IMAGE_MALFORMED",
      /config is over 8 MiB/,
      () => withManifest({ config: { ...config, size: 9 << 20 }, layers: [] }),
    ],
    "15, a layer of no distribution (CVE-2020-15157)": [
      "IMAGE_MALFORMED",
      /is not distributable/,
      () =>
        withManifest({
          config,
          layers: [{ ...config, mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" }],
        }),
    ],
    "an index in an index": [
      "IMAGE_MALFORMED",
      /an image index inside an image index/,
      () => {
        const platform = { os: "linux", architecture: ownArchitecture };
        const indexOf = (digest: string) => ({ manifests: [{ digest, size: 1, platform }] });
        const inner = registry.manifest("a/b", indexOf(config.digest), mediaTypes.index, "inner");
        withManifest(indexOf(inner), mediaTypes.index);
      },
    ],
    "no image for this machine": [
      "IMAGE_PLATFORM",
      /it is for linux\/s390x, windows\/amd64/,
      () =>
        withManifest(
          {
            manifests: [
              { digest: config.digest, size: 1, platform: { os: "linux", architecture: "s390x" } },
              { digest: config.digest, size: 1, platform: { os: "windows", architecture: "amd64" } },
            ],
          },
          mediaTypes.index,
        ),
    ],
    "a redirect to another scheme": [
      "REGISTRY",
      /redirects to "file:\/\/\/etc\/passwd"/,
      () => at(layerAt, status(302, { location: "file:///etc/passwd" })),
    ],
    "redirects without end": [
      "REGISTRY",
      /redirects more than 5 times/,
      () => at(layerAt, ({ response, path }) => void response.writeHead(302, { location: path }).end()),
    ],
  };
  for (const [what, [code, message, misbehave]] of Object.entries(cases)) {
    test(what, async () => {
      misbehave();
      await assert.rejects(pull(), (error: { code: string; message: string }) => {
        assert.equal(error.code, code, error.message);
        assert.match(error.message, message);
        return true;
      });
      assert.deepEqual(left(), []);
      assert.deepEqual(images.list(), []);
      // And the next one works.
      registry.misbehave = undefined;
      registry.image("a/b", [layer]);
      assert.deepEqual((await pull()).repoTags, [name()]);
    });
  }

  test("what a registry says of itself is in the message with registry and repository", async () => {
    at(manifestPath, status(403, {}, "\u001b[31mred\n"));
    await assert.rejects(pull(), (error: Error) => {
      assert.equal(
        error.message,
        `${registry.host}/a/b: manifest latest: ${registry.url} refused access (HTTP 403): "\\u001b[31mred\\n"`,
      );
      return true;
    });
  });
});

describe("authorization", () => {
  const tokens = new Map<string, string>();
  let tokenRequests: string[];
  /** Requests a token of the token service at `other`. */
  const demandToken = (valid: () => string): void => {
    tokenRequests = [];
    registry.misbehave = (exchange) => {
      if (exchange.request.headers.authorization === `Bearer ${valid()}`) return exchange.serve();
      exchange.response
        .writeHead(401, { "www-authenticate": `Bearer realm="${other.url}/token",service="reg.test"` })
        .end("{}");
    };
    other.misbehave = ({ request, response, path }) => {
      if (!path.startsWith("/token")) return void response.writeHead(404).end();
      tokenRequests.push(`${request.method} ${path} ${request.headers.authorization ?? "-"}`);
      let body = "";
      request.on("data", (chunk) => (body += String(chunk)));
      request.on("end", () => {
        if (body !== "") tokenRequests.push(body);
        response.end(JSON.stringify({ token: tokens.get("now") ?? "t1" }));
      });
    };
  };

  test("a token is fetched once for the repository, anonymously", async () => {
    tokens.clear();
    demandToken(() => "t1");
    await pull();
    assert.ok(tokenRequests.length >= 1);
    assert.ok(
      tokenRequests.every((one) => one === "GET /token?service=reg.test&scope=repository%3Aa%2Fb%3Apull -"),
    );
  });

  test("a user name and password go to the token service only", async () => {
    tokens.clear();
    demandToken(() => "t1");
    await pull({ kind: "basic", username: "me", password: "pässword" });
    const basic = `Basic ${Buffer.from("me:pässword").toString("base64")}`;
    assert.ok(tokenRequests.every((one) => one.endsWith(basic)));
    assert.ok(!registry.authorizations.includes(basic));
  });

  test("an identity token is exchanged", async () => {
    tokens.clear();
    demandToken(() => "t1");
    await pull({ kind: "identity-token", token: "refresh me" });
    assert.match(tokenRequests[0] ?? "", /^POST \/token -/);
    assert.match(tokenRequests[1] ?? "", /grant_type=refresh_token&.*refresh_token=refresh\+me/);
  });

  test("a token that has run out is replaced", async () => {
    tokens.set("now", "t1");
    let current = "t1";
    demandToken(() => current);
    const good = registry.misbehave;
    registry.misbehave = (exchange) => {
      if (layerAt.test(exchange.path) && current === "t1") {
        current = "t2";
        tokens.set("now", "t2");
      }
      good?.(exchange);
    };
    assert.deepEqual((await pull()).repoTags, [name()]);
  });

  const refused: Record<string, [RegExp, (response: Exchange["response"]) => void]> = {
    "says no": [
      /the token service http:\/\/127.* answered HTTP 401: "no"/,
      (response) => void response.writeHead(401).end("no"),
    ],
    "talks nonsense": [/did not answer with JSON/, (response) => void response.end("<html>")],
    "gives no token": [/holds no token/, (response) => void response.end("{}")],
    "gives a header": [
      /holds no token/,
      (response) => void response.end(JSON.stringify({ token: "a\r\nX-Evil: 1" })),
    ],
  };
  for (const [what, [message, act]] of Object.entries(refused)) {
    test(`a token service that ${what}`, async () => {
      demandToken(() => "never");
      other.misbehave = ({ response }) => act(response);
      await assert.rejects(pull(), (error: { code: string; message: string }) => {
        assert.equal(error.code, "REGISTRY_AUTH");
        assert.match(error.message, message);
        assert.ok(error.message.startsWith(`${registry.host}/a/b: `));
        return true;
      });
      assert.deepEqual(left(), []);
    });
  }

  test("a token that is not accepted is not asked for again and again", async () => {
    demandToken(() => "never");
    await assert.rejects(pull(), { code: "REGISTRY_AUTH" });
    assert.equal(tokenRequests.length, 1);
  });

  test("15, basic: demanded, given, and kept from another host that a redirect leads to (CVE-2020-15157)", async () => {
    const basic = `Basic ${Buffer.from("me:secret").toString("base64")}`;
    registry.misbehave = (exchange) => {
      if (exchange.request.headers.authorization !== basic)
        return void exchange.response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
      if (layerAt.test(exchange.path))
        return void exchange.response.writeHead(307, { location: `${other.url}${exchange.path}` }).end();
      exchange.serve();
    };
    await assert.rejects(pull(), {
      code: "REGISTRY_AUTH",
      message: /wants a user name and password, and none was given/,
    });
    await pull({ kind: "basic", username: "me", password: "secret" });
    assert.deepEqual(other.requests, [layerPath]);
    assert.deepEqual(other.authorizations, [""]);
  });
});

describe("mirrors", () => {
  test("a mirror is asked first, and the name stays the registry's", async () => {
    await images.close();
    images = await openImages([`${other.url}/`]);
    assert.deepEqual((await pull()).repoTags, [name()]);
    assert.deepEqual(registry.requests, []);
  });

  test("what a mirror does wrong sends the pull to the registry, without the registry's credentials", async () => {
    await images.close();
    images = await openImages([other.url]);
    other.misbehave = ({ response, path }) => {
      if (path.includes("manifests"))
        return void response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
      response.end("not the blob");
    };
    await pull({ kind: "basic", username: "me", password: "secret" });
    assert.deepEqual([...new Set(other.authorizations)], [""]);
    assert.ok(registry.requests.includes(layerPath));
  });

  test("when all fail the message names each", async () => {
    await images.close();
    images = await openImages([other.url, "http://127.0.0.1:2"]);
    other.misbehave = status(502);
    registry.misbehave = status(404);
    await assert.rejects(pull(), (error: { code: string; message: string }) => {
      assert.equal(error.code, "NOT_FOUND");
      assert.match(
        error.message,
        new RegExp(`mirror ${other.url}: .*HTTP 502.*; mirror http://127.0.0.1:2: .*ECONNREFUSED`),
      );
      return true;
    });
  });
});

describe("several at once", () => {
  test("pulls of one image are one; each may give up alone", async () => {
    const stop = new AbortController();
    const given = images.pull(name(), { signal: stop.signal });
    const others = Array.from({ length: 8 }, () => pull());
    stop.abort();
    await assert.rejects(given);
    const ids = new Set((await Promise.all(others)).map(({ id }) => id));
    assert.equal(ids.size, 1);
    assert.equal(registry.requests.length, new Set(registry.requests).size, registry.requests.join("\n"));
    assert.equal(registry.requests.length, 3);
  });

  test("two names of one image are converted once, and both are kept", async () => {
    registry.image("a/b", [layer], "second");
    const both = [name(), `${registry.host}/a/b:second`];
    await Promise.all(both.map((one) => images.pull(one)));
    assert.deepEqual(images.list()[0]?.repoTags, both);
    assert.equal(registry.requests.filter((one) => one === layerPath).length, 1);
  });

  test("the last caller's giving up ends the pull, and one that comes then begins anew", async () => {
    let hang = true;
    let reached = (): void => {};
    const asked = new Promise<void>((resolve) => (reached = resolve));
    registry.misbehave = (exchange) => {
      if (!(hang && layerAt.test(exchange.path))) return exchange.serve();
      exchange.response.writeHead(200, { "content-length": layer.length }).flushHeaders();
      reached();
    };
    const stop = new AbortController();
    const first = images.pull(name(), { signal: stop.signal });
    first.catch(() => {});
    await asked;
    hang = false;
    stop.abort();
    await assert.rejects(first);
    // The first one's work is still being ended here.
    assert.deepEqual((await pull()).repoTags, [name()]);
    assert.equal(left().length, 1);
  });

  test("names are kept as asked for: tag, digest, both", async () => {
    const digest = registry.image("a/b", [layer], "sha-1234");
    await images.pull(`${registry.host}/a/b:sha-1234`);
    await images.pull(`${registry.host}/a/b@${digest}`);
    const image = await images.pull(`${registry.host}/a/b:other@${digest}`);
    assert.deepEqual(image.repoTags, [`${registry.host}/a/b:other`, `${registry.host}/a/b:sha-1234`]);
    assert.deepEqual(image.repoDigests, [`${registry.host}/a/b@${digest}`]);
    await assert.rejects(images.pull(`${registry.host}/a/b@sha256:${"0".repeat(64)}`), { code: "NOT_FOUND" });
  });
});
