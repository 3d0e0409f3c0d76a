import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;

class Publish {
    public static void main(String[] args) throws Exception {
        publish("{\"user\":\"alice\",\"type\":\"order_update\",\"data\":{\"orderId\":\"123\",\"status\":\"shipped\"},\"key\":\"order-123-shipped\"}",
            "{\"user\":\"bob\",\"data\":{\"text\":\"Hello\"},\"key\":\"hello-bob-1\"}");
    }

RECIPE
}
