import assert from "node:assert/strict";
import { test } from "node:test";
import { networkFromCni } from "./cni-result.ts";
import { bootNetwork, type GuestNetwork, networkInterface } from "./guest-network.ts";
import { macFrom, parseMac } from "./mac-address.ts";
import { FirecrackerNetworkError } from "./network-error.ts";

/** As bridge, host-local and tc-redirect-tap give it. */
const withTap = {
  cniVersion: "1.0.0",
  interfaces: [
    { name: "br0", mac: "aa:00:00:00:00:01" },
    { name: "veth1", mac: "aa:00:00:00:00:02" },
    { name: "eth0", mac: "aa:00:00:00:00:03", sandbox: "/run/netns/a" },
    { name: "tap0", mac: "aa:00:00:00:00:04", sandbox: "/run/netns/a" },
    { name: "tap0", mac: "AA:00:00:00:00:05", sandbox: "vm-1" },
  ],
  ips: [
    { interface: 2, address: "192.168.9.9/24" },
    { interface: 4, address: "10.0.0.2/24", gateway: "10.0.0.1" },
    { interface: 4, address: "fd00::2/64", gateway: "fd00::1" },
  ],
  routes: [{ dst: "0.0.0.0/0" }, { dst: "10.9.0.0/16", gw: "10.0.0.9" }],
  dns: {
    nameservers: ["10.0.0.53", "fd00::53", "10.0.0.54", "10.0.0.55"],
    domain: "d",
    search: ["s"],
    options: ["ndots:5"],
  },
};
const call = { containerId: "vm-1" };
const read: GuestNetwork = {
  tapName: "tap0",
  netns: "/run/netns/a",
  mac: "aa:00:00:00:00:05",
  addresses: [
    { address: "10.0.0.2/24", gateway: "10.0.0.1" },
    { address: "fd00::2/64", gateway: "fd00::1" },
  ],
  routes: [{ destination: "0.0.0.0/0" }, { destination: "10.9.0.0/16", gateway: "10.0.0.9" }],
  nameservers: ["10.0.0.53", "fd00::53", "10.0.0.54", "10.0.0.55"],
  domain: "d",
  search: ["s"],
  resolverOptions: ["ndots:5"],
};

test("networkFromCni: a chain that ends with tc-redirect-tap", () => {
  assert.deepEqual(networkFromCni(withTap, call), read);
});

test("networkFromCni: plain plugins of 0.4 with a tap of the caller's, and an MTU of 1.1", () => {
  const plain = {
    cniVersion: "0.4.0",
    interfaces: [{ name: "veth1" }, { name: "eth0", mac: "aa:00:00:00:00:03", sandbox: "/run/netns/a" }],
    ips: [{ version: "4", interface: 1, address: "10.0.0.2/24", gateway: "10.0.0.1" }],
    dns: {},
  };
  const wanted = {
    tapName: "tap7",
    netns: "/run/netns/a",
    mac: "aa:00:00:00:00:03",
    addresses: [{ address: "10.0.0.2/24", gateway: "10.0.0.1" }],
    routes: [],
    nameservers: [],
    search: [],
    resolverOptions: [],
  };
  assert.deepEqual(networkFromCni(plain, { ...call, tapName: "tap7", ifName: "eth0" }), wanted);
  const newer = {
    ...plain,
    cniVersion: "1.1.0",
    interfaces: [plain.interfaces[0], { ...plain.interfaces[1], mtu: 9000 }],
  };
  assert.deepEqual(networkFromCni(newer, { ...call, tapName: "tap7" }), { ...wanted, mtu: 9000 });
});

test("networkFromCni: refuses what it cannot use, and names the part", () => {
  const tap = withTap.interfaces[3];
  const rows: readonly [unknown, string][] = [
    [null, "result"],
    [{ ...withTap, cniVersion: "0.2.0" }, "cniVersion"],
    [{ ...withTap, cniVersion: undefined }, "cniVersion"],
    [{ ...withTap, interfaces: {} }, "interfaces"],
    [{ ...withTap, interfaces: [1] }, "interfaces[0]"],
    [{ ...withTap, interfaces: [] }, "interfaces"],
    [{ ...withTap, interfaces: withTap.interfaces.filter((one) => one !== tap) }, "interfaces"],
    [{ ...withTap, interfaces: [...withTap.interfaces, tap] }, "interfaces"],
    [{ ...withTap, interfaces: [...withTap.interfaces, withTap.interfaces[4]] }, "interfaces"],
    [{ ...withTap, interfaces: [{ name: "eth0", sandbox: "/n" }], ips: [] }, "tapName"],
    [
      {
        ...withTap,
        interfaces: [
          { name: "t", sandbox: "/n" },
          { name: "t", sandbox: "vm-1", mac: "x" },
        ],
        ips: [],
      },
      "interfaces[1].mac",
    ],
    [{ ...withTap, interfaces: [{ name: "t", mtu: 70_000 }] }, "interfaces[0].mtu"],
    [{ ...withTap, ips: [{ address: "10.0.0.2" }] }, "ips[0].address"],
    [{ ...withTap, ips: [{ address: "10.0.0.2/33" }] }, "ips[0].address"],
    [{ ...withTap, ips: [{ address: "10.0.0.2/24", gateway: "x" }] }, "ips[0].gateway"],
    [{ ...withTap, ips: [{ address: "10.0.0.2/24", interface: 9 }] }, "ips[0].interface"],
    [{ ...withTap, routes: [{ dst: "default" }] }, "routes[0].dst"],
    [{ ...withTap, dns: { nameservers: ["8.8.8.8 init=/bin/sh"] } }, "dns.nameservers[0]"],
    [{ ...withTap, dns: { search: [1] } }, "dns.search[0]"],
  ];
  for (const [result, field] of rows) {
    assert.throws(
      () => networkFromCni(result, call),
      (error) => error instanceof FirecrackerNetworkError && error.field === field,
      `${JSON.stringify(result)} must be refused by ${field}`,
    );
  }
});

test("bootNetwork: what ip= carries, and all the rest as data", () => {
  assert.deepEqual(bootNetwork(read), {
    argument: "ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off:10.0.0.53:10.0.0.54",
    addresses: [{ address: "fd00::2/64", gateway: "fd00::1" }],
    routes: [{ destination: "10.9.0.0/16", gateway: "10.0.0.9" }],
    nameservers: ["fd00::53", "10.0.0.55"],
  });
  const bare: GuestNetwork = {
    tapName: "t",
    addresses: [],
    routes: [],
    nameservers: [],
    search: [],
    resolverOptions: [],
  };
  const v6 = { ...bare, addresses: [{ address: "fd00::2/64" }], nameservers: ["10.0.0.53"] };
  assert.deepEqual(bootNetwork(v6), {
    argument: undefined,
    addresses: v6.addresses,
    routes: [],
    nameservers: ["10.0.0.53"],
  });
  const masks: readonly [string, string][] = [
    ["10.0.0.2/0", "0.0.0.0"],
    ["10.0.0.2/1", "128.0.0.0"],
    ["10.0.0.2/20", "255.255.240.0"],
    ["10.0.0.2/32", "255.255.255.255"],
  ];
  for (const [address, mask] of masks)
    assert.equal(
      bootNetwork({ ...bare, addresses: [{ address }] }, "eth1").argument,
      `ip=10.0.0.2:::${mask}::eth1:off::`,
    );
  const byRoute = {
    ...bare,
    addresses: [{ address: "10.0.0.2/24" }],
    routes: [{ destination: "0.0.0.0/0", gateway: "10.0.0.1" }],
  };
  assert.deepEqual(bootNetwork(byRoute).routes, []);
  assert.match(bootNetwork(byRoute).argument ?? "", /^ip=10\.0\.0\.2::10\.0\.0\.1:/);
});

test("networkInterface: the MTU is sent only when asked for, since old VMMs refuse it", () => {
  const network = { ...read, mtu: 9000 };
  const body = { iface_id: "eth0", host_dev_name: "tap0", guest_mac: "aa:00:00:00:00:05" };
  assert.deepEqual(networkInterface(network, "eth0"), body);
  assert.deepEqual(networkInterface(network, "eth0", { announceMtu: true }), { ...body, mtu: 9000 });
});

test("macFrom: an IPv4 address can be read back, anything else is spread; always local and unicast", () => {
  assert.equal(macFrom("172.16.0.2"), "06:00:ac:10:00:02");
  assert.equal(macFrom("vm-1"), macFrom("vm-1"));
  assert.notEqual(macFrom("vm-1"), macFrom("vm-2"));
  for (const text of ["", "vm-1", "fd00::2", "10.0.0.1"]) {
    const mac = parseMac(macFrom(text));
    assert.equal(Number.parseInt(mac.slice(0, 2), 16) & 3, 2, mac);
  }
  for (const bad of [
    "",
    "01:00:00:00:00:00",
    "00:00:00:00:00:00",
    "06:00:00:00:00",
    "06-00-00-00-00-00",
    "06:00:00:00:00:0g",
  ])
    assert.throws(() => parseMac(bad), FirecrackerNetworkError, bad);
});
