// Talks to a server in the guest over vsock: streams with back-pressure, many at a time, no network needed.
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { boot, guestConfiguration, launchOptions, main, patience, workDirectory } from "./guest.ts";

/** Sends all of it and reads as much back: a vsock stream carries no half-close, so somebody has to count. */
async function echo(stream: Duplex, data: Buffer): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let received = 0;
  const all = new Promise<void>((resolve) =>
    stream.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      received += chunk.length;
      if (received >= data.length) resolve();
    }),
  );
  if (!stream.write(data)) await once(stream, "drain");
  await all;
  stream.destroy();
  return Buffer.concat(chunks);
}

await main(async () => {
  using work = workDirectory();
  const vsock = { guest_cid: 3, uds_path: join(work.path, "v.sock") };
  await using guest = await boot(launchOptions(work.path, "vsock"), guestConfiguration(work.path, { vsock }));
  // The server may still be starting: tried again until it listens.
  const dial = (): Promise<Duplex> => guest.machine.dialVsock(52, { signal: patience(), retry: {} });

  console.log(String(await echo(await dial(), Buffer.from("hello, guest"))));
  const sum = (data: Buffer): string => createHash("sha256").update(data).digest("hex").slice(0, 16);
  const megabyte = randomBytes(1 << 20);
  const begun = performance.now();
  const returned = await echo(await dial(), megabyte);
  console.log(`1 MiB there and back in ${(performance.now() - begun).toFixed(0)} ms, ${sum(returned)}`);
  if (sum(returned) !== sum(megabyte)) throw new Error("it came back changed");

  const answers = await Promise.all(
    Array.from({ length: 50 }, async (_, index) => String(await echo(await dial(), Buffer.from(`${index}`)))),
  );
  console.log(`50 at a time: ${answers.join(" ")}`);
});
