// Metadata for the guest on 169.254.169.254, by the session-oriented version 2. Needs root, for the tap.
import { createTap, macFrom } from "@tinderbox/firecracker";
import { boot, guestConfiguration, launchOptions, main, workDirectory } from "./guest.ts";

const address = "169.254.169.254";

/** A request as busybox can make it: PUT is not wget's. */
const ask = (head: string): string => `printf '${head}\\r\\nAccept: */*\\r\\n\\r\\n' | nc -w 3 ${address} 80`;

await main(async () => {
  using work = workDirectory();
  await using tap = await createTap({ name: `fcex${process.pid % 100_000}` });
  await using guest = await boot(
    launchOptions(work.path, "mmds"),
    guestConfiguration(work.path, {
      "network-interfaces": [
        { iface_id: "eth0", host_dev_name: tap.name, guest_mac: macFrom("mmds-example") },
      ],
      "mmds-config": { version: "V2", network_interfaces: ["eth0"], ipv4_address: address },
      mmds: { instance: { id: "i-0123", region: "here" } },
    }),
  );
  const { machine, shell } = guest;
  await shell.run(`ip link set eth0 up; ip addr add 169.254.0.2/16 dev eth0`);
  const answer = await shell.run(ask("PUT /latest/api/token HTTP/1.1\\r\\nX-metadata-token-ttl-seconds: 60"));
  const token = answer.split("\n").at(-1)?.trim() ?? "";
  console.log(`a token of ${token.length} characters`);
  const read = (path: string): Promise<string> =>
    shell.run(ask(`GET ${path} HTTP/1.1\\r\\nX-metadata-token: ${token}`));
  const lastLine = (text: string): string => text.split("\n").at(-1) ?? "";
  console.log(`instance/id: ${lastLine(await read("/instance/id"))}`);
  await machine.api.patchMmds({ instance: { region: "there" } });
  console.log(`instance/region, after a PATCH: ${lastLine(await read("/instance/region"))}`);
  console.log(`without a token: ${(await shell.run(ask("GET /instance/id HTTP/1.1"))).split("\n")[0]}`);
});
