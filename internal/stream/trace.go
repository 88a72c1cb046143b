package stream

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/segmentio/kafka-go"
)

// tracer does nothing unless the program sets a provider up.
var tracer = otel.Tracer("tollgate/internal/stream")

// startBatch begins the span of a batch, from before it is decided until what it led to is
// acknowledged. It is linked to the spans that sent its records (OpenTelemetry's semantic
// conventions for messaging: batches).
func startBatch(ctx context.Context, group string, batch Batch) (context.Context, trace.Span) {
	ctx, span := tracer.Start(ctx, "process", trace.WithSpanKind(trace.SpanKindConsumer))
	if !span.IsRecording() || len(batch.Records) == 0 { // which only goes on with others
		return ctx, span
	}
	span.SetName("process " + batch.Topic)
	span.SetAttributes(
		semconv.MessagingSystemKafka, semconv.MessagingOperationTypeProcess, semconv.MessagingOperationName("process"),
		semconv.MessagingDestinationName(batch.Topic), semconv.MessagingConsumerGroupName(group),
		semconv.MessagingBatchMessageCount(len(batch.Records)), semconv.MessagingKafkaOffset(int(batch.Records[0].Offset)),
		attribute.Int("messaging.destination.partition.id", batch.Partition), attribute.Int("tollgate.generation", batch.Generation),
	)
	for i := range batch.Records {
		if sender := senderOf(&batch.Records[i]); sender.IsValid() {
			span.AddLink(trace.Link{SpanContext: sender})
		}
	}
	return ctx, span
}

// senderOf is the span that a record's traceparent and tracestate name.
func senderOf(record *kafka.Message) trace.SpanContext {
	carrier := propagation.MapCarrier{}
	for _, header := range record.Headers {
		if header.Key == "traceparent" || header.Key == "tracestate" {
			carrier[header.Key] = string(header.Value)
		}
	}
	if len(carrier) == 0 {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}

// endSpan ends a span, noting why it failed.
func endSpan(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
