package example;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.math.BigDecimal;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;

/**
 * Asks whether a customer may use a feature, takes it off the balance, and prints the answer.
 *
 * <pre>mvn -q compile exec:java -Dexec.args="acme messages 2"</pre>
 */
public final class Check {
  private static final String CHECKS = "balance.checks";
  private static final String RESULTS = "balance.check-results";
  private static final Duration PATIENCE = Duration.ofSeconds(10);

  public static void main(String[] args) throws Exception {
    String customer = args.length > 0 ? args[0] : "acme";
    String feature = args.length > 1 ? args[1] : "messages";
    BigDecimal amount = new BigDecimal(args.length > 2 ? args[2] : "1");
    String brokers = System.getenv().getOrDefault("KAFKA_BROKERS", "127.0.0.1:9092");

    var producers = new DefaultKafkaProducerFactory<String, String>(
        Map.of("bootstrap.servers", brokers), new StringSerializer(), new StringSerializer());
    var consumers = new DefaultKafkaConsumerFactory<String, String>(
        Map.of("bootstrap.servers", brokers, "auto.offset.reset", "latest"), new StringDeserializer(), new StringDeserializer());
    var replies = new ContainerProperties(RESULTS);
    replies.setGroupId("check-" + UUID.randomUUID()); // each asker reads all results
    var template = new ReplyingKafkaTemplate<>(producers, new KafkaMessageListenerContainer<>(consumers, replies));
    template.setSharedReplyTopic(true); // others' results are no error
    template.setDefaultReplyTimeout(PATIENCE);
    template.start();
    int exitCode = 1;
    try {
      template.waitForAssignment(PATIENCE);
      ObjectMapper json = new ObjectMapper();
      String request = json.createObjectNode()
          .put("customer_id", customer).put("feature_id", feature).put("required_balance", amount).put("send_event", true)
          .toString();
      // Spring's headers name the answer; Tollgate sends them back.
      var answer = template.sendAndReceive(new ProducerRecord<>(CHECKS, customer, request))
          .get(PATIENCE.toSeconds() + 1, TimeUnit.SECONDS);
      JsonNode result = json.readTree(answer.value());
      boolean allowed = result.get("allowed").asBoolean();
      System.out.printf("%s: %s, %s left%n", allowed ? "allowed" : "denied", result.get("code").asText(),
          result.at("/balance/remaining").asText("0"));
      exitCode = allowed ? 0 : 3;
    } finally {
      template.stop();
      producers.destroy();
    }
    System.exit(exitCode);
  }
}
