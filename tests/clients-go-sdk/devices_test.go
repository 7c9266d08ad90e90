package sdk

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	"github.com/firecracker-microvm/firecracker-go-sdk/client/models"
)

type metadata map[string]any

// One machine with a tap in a network namespace, the metadata service and a balloon; then a second one, made of its snapshot.
func TestDevices(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cfg := configuration(t)
	cfg.NetNS = newTapNamespace(t, "tb-sdk", "tb-sdk0")
	cfg.MmdsVersion = firecracker.MMDSv2
	cfg.NetworkInterfaces = firecracker.NetworkInterfaces{{
		AllowMMDS: true,
		StaticConfiguration: &firecracker.StaticNetworkConfiguration{
			MacAddress:  "06:00:0a:09:00:02",
			HostDevName: "tb-sdk0",
			IPConfiguration: &firecracker.IPConfiguration{
				IPAddr:  net.IPNet{IP: net.IPv4(10, 9, 0, 2), Mask: net.CIDRMask(24, 32)},
				Gateway: net.IPv4(10, 9, 0, 1),
			},
		},
	}}
	cfg.Drives = []models.Drive{newDrive(t, &cfg, "data", "the data drive")}
	m := newMachine(ctx, t, cfg)
	m.Handlers.FcInit = m.Handlers.FcInit.
		AppendAfter(firecracker.CreateMachineHandlerName, firecracker.NewCreateBalloonHandler(0, true, 1)).
		Append(firecracker.NewSetMetadataHandler(metadata{"name": "first"}))
	m.boot(ctx)

	t.Run("network", func(t *testing.T) {
		equal(t, "MAC", m.ask(t, "mac", "eth0"), "06:00:0a:09:00:02")
		listener := listenIn(t, cfg.NetNS)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "by tap") })}
		go server.Serve(listener)
		defer server.Close()
		equal(t, "the answer", m.ask(t, "fetch", "http://"+listener.Addr().String()), "by tap")
	})

	t.Run("UpdateGuestNetworkInterfaceRateLimit", func(t *testing.T) {
		address := listenForDownloads(t, cfg.NetNS)
		const size = 2 << 20
		m.ask(t, "download", address, size)
		// 512 KiB at once, 512 KiB a second: the rest of 2 MiB needs three seconds, less what the guest does not count.
		bucket := firecracker.TokenBucketBuilder{}.WithBucketSize(512 << 10).WithRefillDuration(time.Second).Build()
		many := firecracker.TokenBucketBuilder{}.WithBucketSize(1 << 30).WithRefillDuration(time.Second).Build()
		limiter := firecracker.NewRateLimiter(bucket, many)
		must(t, m.UpdateGuestNetworkInterfaceRateLimit(ctx, "1", firecracker.RateLimiterSet{InRateLimiter: limiter}))
		ms, err := strconv.Atoi(m.ask(t, "download", address, size))
		must(t, err)
		if ms < 2000 {
			t.Errorf("%d bytes took %d ms in spite of the limit", size, ms)
		}
		none := firecracker.TokenBucketBuilder{}.WithBucketSize(0).WithRefillDuration(0).Build()
		off := firecracker.NewRateLimiter(none, none)
		must(t, m.UpdateGuestNetworkInterfaceRateLimit(ctx, "1", firecracker.RateLimiterSet{InRateLimiter: off}))
		err = m.UpdateGuestNetworkInterfaceRateLimit(ctx, "9", firecracker.RateLimiterSet{InRateLimiter: off})
		if err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("an unknown interface: %v", err)
		}
	})

	t.Run("metadata", func(t *testing.T) {
		equal(t, "the guest's name", m.ask(t, "metadata", "/name"), `"first"`)
		must(t, m.UpdateMetadata(ctx, metadata{"count": 7, "name": nil}))
		var got metadata
		must(t, m.GetMetadata(ctx, &got))
		text, err := json.Marshal(got)
		must(t, err)
		equal(t, "metadata", string(text), `{"count":7}`)
		must(t, m.SetMetadata(ctx, metadata{"name": "second"}))
		equal(t, "the guest's name", m.ask(t, "metadata", "/name"), `"second"`)
		if text, err := m.try(ctx, "metadata", "/count"); err == nil {
			t.Errorf("what is gone is still there: %s", text)
		}
	})

	t.Run("balloon", func(t *testing.T) {
		config, err := m.GetBalloonConfig(ctx)
		must(t, err)
		equal(t, "MiB", *config.AmountMib, 0)
		equal(t, "deflates", *config.DeflateOnOom, true)
		must(t, m.UpdateBalloon(ctx, 64))
		eventually(t, "the balloon has 64 MiB", func() bool {
			statistics, err := m.GetBalloonStats(ctx)
			must(t, err)
			return *statistics.TargetMib == 64 && *statistics.ActualMib == 64 && statistics.TotalMemory > 0
		})
		must(t, m.UpdateBalloonStats(ctx, 2))
		config, err = m.GetBalloonConfig(ctx)
		must(t, err)
		equal(t, "s", config.StatsPollingIntervals, 2)
		must(t, m.UpdateBalloon(ctx, 0))
	})

	m.ask(t, "remember", "colour", "green")
	t.Run("snapshot", func(t *testing.T) { snapshot(ctx, t, m, cfg) })
}

func listenIn(t *testing.T, namespace string) net.Listener {
	var listener net.Listener
	must(t, ns.WithNetNSPath(namespace, func(ns.NetNS) (err error) {
		listener, err = net.Listen("tcp", "10.9.0.1:0")
		return err
	}))
	return listener
}

// Whoever calls gets zeros until he goes.
func listenForDownloads(t *testing.T, namespace string) string {
	listener := listenIn(t, namespace)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				zeros := make([]byte, 64<<10)
				for err == nil {
					_, err = conn.Write(zeros)
				}
			}()
		}
	}()
	return listener.Addr().String()
}
