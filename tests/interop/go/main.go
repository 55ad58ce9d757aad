// A round trip by franz-go. The contract is in tests/interop/client_program.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const timeout = 60 * time.Second

type record struct {
	Kind        string               `json:"kind,omitempty"`
	Partition   int32                `json:"partition"`
	Offset      int64                `json:"offset"`
	Key         *[]byte              `json:"key"`
	Value       *[]byte              `json:"value"`
	Headers     [][2]json.RawMessage `json:"headers"`
	TimestampMs int64                `json:"timestamp_ms"`
}

var out = json.NewEncoder(os.Stdout)

func fail(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func check(name string, got any) { _ = out.Encode(map[string]any{"kind": "check", "name": name, "got": got}) }

func readRecords() (records []record) {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var r record
		fail("input", json.Unmarshal(lines.Bytes(), &r))
		records = append(records, r)
	}
	return records
}

func toKafka(topic string, r record) *kgo.Record {
	k := &kgo.Record{Topic: topic, Partition: r.Partition, Timestamp: time.UnixMilli(r.TimestampMs)}
	if r.Key != nil {
		k.Key = append([]byte{}, *r.Key...)
	}
	if r.Value != nil {
		k.Value = append([]byte{}, *r.Value...)
	}
	for _, h := range r.Headers {
		var header kgo.RecordHeader
		fail("header", json.Unmarshal(h[0], &header.Key))
		fail("header", json.Unmarshal(h[1], &header.Value))
		k.Headers = append(k.Headers, header)
	}
	return k
}

func printRecord(k *kgo.Record) {
	headers := make([][2]any, 0, len(k.Headers))
	for _, h := range k.Headers {
		headers = append(headers, [2]any{h.Key, h.Value})
	}
	_ = out.Encode(map[string]any{"kind": "record", "partition": k.Partition, "offset": k.Offset, "key": k.Key,
		"value": k.Value, "headers": headers, "timestamp_ms": k.Timestamp.UnixMilli()})
}

func produce(ctx context.Context, bootstrap, topic, compression string, records []record) {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[compression]))
	fail("producer", err)
	defer client.Close()
	for _, r := range records {
		client.Produce(ctx, toKafka(topic, r), func(k *kgo.Record, err error) {
			fail("produce", err)
			_ = out.Encode(map[string]any{"kind": "produced", "partition": k.Partition, "offset": k.Offset})
		})
	}
	fail("flush", client.Flush(ctx))
}

func consume(ctx context.Context, bootstrap, topic, group string, count int) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	fail("consumer", err)
	defer client.Close()
	for seen := 0; seen < count; {
		fetches := client.PollFetches(ctx)
		fail("fetch", fetches.Err())
		fetches.EachRecord(func(k *kgo.Record) { printRecord(k); seen++ })
	}
	fail("commit", client.CommitUncommittedOffsets(ctx))
}

func inspect(ctx context.Context, admin *kadm.Client, topic, group string) {
	committed, err := admin.FetchOffsets(ctx, group)
	fail("fetch offsets", err)
	committed.Each(func(o kadm.OffsetResponse) {
		fail("committed offset", o.Err)
		_ = out.Encode(map[string]any{"kind": "committed", "partition": o.Partition, "offset": o.At})
	})
	lag, err := admin.Lag(ctx, group)
	fail("lag", err)
	check("lag", lag[group].Lag.Total())
	ends, err := admin.ListEndOffsets(ctx, topic)
	fail("end offsets", err)
	total := int64(0)
	ends.Each(func(o kadm.ListedOffset) { fail("end offset", o.Err); total += o.Offset })
	check("end_offsets", total)
	_, err = admin.DeleteGroup(ctx, group)
	fail("delete group", err)
	listed, err := admin.ListGroups(ctx)
	fail("list groups", err)
	_, still := listed[group]
	check("group_left", still)
	deleted, err := admin.DeleteTopics(ctx, topic)
	fail("delete topic", err)
	fail("delete topic", deleted[topic].Err)
}

func main() {
	bootstrap, topic, group, compression := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	fail("client", err)
	admin := kadm.NewClient(client)
	defer admin.Close()
	created, err := admin.CreateTopic(ctx, 3, 1, nil, topic)
	fail("create topic", err)
	check("created_partitions", created.NumPartitions)
	records := readRecords()
	produce(ctx, bootstrap, topic, compression, records)
	consume(ctx, bootstrap, topic, group, len(records))
	inspect(ctx, admin, topic, group)
}
