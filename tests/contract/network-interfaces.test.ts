// PUT /network-interfaces before the start: each attaches to its tap at once, which is made if it is not there.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { beforeStart, get, put, type Row, refused, sequence } from "./harness/rows.ts";

/** Names of this run's own */
const tap = (name: string): string => `ct${process.pid % 1_000_000}${name}`;
const isThere = (name: string): boolean =>
  readFileSync("/proc/self/net/dev", "utf8")
    .split("\n")
    .some((line) => line.trim().startsWith(`${name}:`));
const body = (id: string, name: string, more: object = {}): object => ({
  iface_id: id,
  host_dev_name: tap(name),
  ...more,
});
const device = (id: string, name: string, more: object = {}, rest: Partial<Row> = {}): Row =>
  put(`/network-interfaces/${id}`, body(id, name, more), 204, rest);
const wrong = (id: string, more: object, says: RegExp): Row =>
  refused(`PUT /network-interfaces/${id}`, body(id, "w", more), says);

sequence("network-interfaces: the tap is attached to at once, and by one only", [
  device("n", "a", {}, { effect: () => assert.ok(isThere(tap("a"))) }),
  get("/vm/config", {
    "network-interfaces": [
      {
        iface_id: "n",
        host_dev_name: tap("a"),
        guest_mac: null,
        mtu: null,
        rx_rate_limiter: null,
        tx_rate_limiter: null,
      },
    ],
  }),
  refused("PUT /network-interfaces/m", body("m", "a"), /Open tap device failed: .*Device or resource busy/),
  // Its own again: the first attachment is given up first.
  device("n", "a", { mtu: 1400 }),
  device("n", "b", {}, { effect: () => assert.ok(!isThere(tap("a"))) }),
  wrong("m", { host_dev_name: "lo" }, /Open tap device failed: .*Invalid argument/),
  wrong("m", { host_dev_name: "a/b" }, /Open tap device failed: .*Invalid argument/),
  wrong("m", { host_dev_name: "sixteen-letters-" }, /Open tap device failed: Invalid interface name/),
  wrong("m", { host_dev_name: 5 }, /integer `5`, expected a string/),
  // A pattern is filled in by the kernel.
  put("/network-interfaces/p", { iface_id: "p", host_dev_name: `${tap("p")}%d` }),
  get("/vm/config", {
    "network-interfaces": [{ iface_id: "n" }, { iface_id: "p", host_dev_name: `${tap("p")}0` }],
  }),
  // One that fails has lost what it had.
  wrong("p", { host_dev_name: "lo" }, /Open tap device failed/),
  get("/vm/config", { "network-interfaces": [{ iface_id: "n", host_dev_name: tap("b") }] }),
]);

sequence("network-interfaces: MAC and MTU", [
  device("n", "c", { guest_mac: "AA:FC:00:00:00:01", mtu: 68 }),
  get("/vm/config", { "network-interfaces": [{ guest_mac: "aa:fc:00:00:00:01", mtu: 68 }] }),
  wrong("m", { guest_mac: "aa:fc:00:00:00:01" }, /MAC address is already in use: aa:fc:00:00:00:01/),
  device("n", "c", { guest_mac: "aa:fc:00:00:00:02", mtu: 65535 }),
  ...["", "zz", "aa:bb:cc:dd:ee", "aa-bb-cc-dd-ee-ff", "aa:bb:cc:dd:ee:fg", "a:b:c:d:e:f"].map((guest_mac) =>
    wrong("m", { guest_mac }, /MAC address/),
  ),
  wrong("m", { guest_mac: 5 }, /integer `5`, expected a string/),
  wrong("m", { mtu: 67 }, /MTU 67 is out of range/),
  wrong("m", { mtu: 65536 }, /integer `65536`, expected u16/),
  wrong("m", { mtu: "x" }, /expected u16/),
  device("m", "d", { guest_mac: null, mtu: null, rx_rate_limiter: null }),
]);

sequence("network-interfaces: bodies and rate limiters", [
  refused("PUT /network-interfaces/n", { iface_id: "n" }, /missing field `host_dev_name`/),
  refused("PUT /network-interfaces/n", { host_dev_name: "x" }, /missing field `iface_id`/),
  refused("PUT /network-interfaces/n", body("m", "e"), /id from the path.*does not match/),
  refused("PUT /network-interfaces/n-1", body("n-1", "e"), /alphanumeric/),
  refused("PUT /network-interfaces", body("n", "e"), /ID cannot be empty/),
  wrong("n", { allow_mmds_requests: true }, /unknown field `allow_mmds_requests`/),
  wrong("n", { rx_rate_limiter: { ops: {} } }, /missing field `size`/),
  device("n", "e", {
    rx_rate_limiter: { bandwidth: { size: 1000, refill_time: 100 } },
    tx_rate_limiter: { ops: { size: 0, refill_time: 0 } },
  }),
  get("/vm/config", {
    "network-interfaces": [
      {
        rx_rate_limiter: { bandwidth: { size: 1000, one_time_burst: null, refill_time: 100 }, ops: null },
        tx_rate_limiter: null,
      },
    ],
  }),
  refused("PATCH /network-interfaces/n", { iface_id: "n" }, beforeStart),
  refused("PATCH /network-interfaces/n", { iface_id: "m" }, /id from the path/),
  refused("PATCH /network-interfaces/n", { iface_id: "n", guest_mac: "x" }, /unknown field `guest_mac`/),
  refused("DELETE /network-interfaces/n", undefined, beforeStart),
  refused("DELETE /network-interfaces", undefined, /ID cannot be empty/),
]);

sequence("network-interfaces: a tap that was made before is taken as it is", [
  get(
    "/",
    {},
    {
      effect: () => void execFileSync("ip", ["tuntap", "add", tap("z"), "mode", "tap"]),
    },
  ),
  device("n", "z"),
  device(
    "n",
    "y",
    {},
    {
      effect: () => {
        assert.ok(isThere(tap("z")), "it is persistent");
        execFileSync("ip", ["link", "del", tap("z")]);
      },
    },
  ),
]);
