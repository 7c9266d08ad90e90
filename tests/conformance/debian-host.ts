/**
 * critest on a host as Debian makes it, cgroup version 2 alone and AppArmor on, which most of the hosts that we develop on are not: a microVM.
 *   node tests/conformance/debian-host.ts RUN [--nodes N] [--focus REGEX]
 * RUN and the rest are those of run.ts, which runs there. Needs 4 GiB; emulated, it takes half an hour.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { GuestHost } from "../support/guest-host.ts";

/** What a bridge with portmap and its iptables rules ask of a kernel, and images on loop devices. */
const modules = [
  ...["loop", "bridge", "br_netfilter", "veth", "nf_tables", "nft_compat", "nft_chain_nat", "nf_nat"],
  ...[
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_nat",
    "xt_tcpudp",
  ],
];
const parts = ["bench", "tests", ".cache/conformance/debian"];

const work = mkdtempSync("/tmp/tb-");
const reports = join(work, "reports");
mkdirSync(reports);
const host = await GuestHost.start(work, {
  // critest loads its profiles of AppArmor by sudo. The shell stays, to wait for orphans.
  command: `
    sysctl -qw net.ipv4.ip_forward=1
    mkdir /run/bin
    printf '#!/bin/sh\\nexec "$@"\\n' >/run/bin/sudo
    chmod +x /run/bin/sudo
    export PATH="/run/bin:$PATH" NODE_COMPILE_CACHE=/tmp/node
    node tests/conformance/run.ts "$@" || exit $?`,
  args: [...process.argv.slice(2), "--host", "debian", "--reports", reports],
  modules,
  memory: 3584,
  parts,
  patience: 60,
});
try {
  process.exitCode = await host.ended((line) => console.log(line));
  cpSync(reports, join(import.meta.dirname, "../../.cache/conformance/reports/debian"), { recursive: true });
} finally {
  await host.stop();
  rmSync(work, { recursive: true, force: true });
}
