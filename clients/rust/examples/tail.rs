//! Prints what a filter matches, as `tickcast sub` does, and the account at the end.
//!
//! `cargo run -p tickcast-client --example tail -- ws://127.0.0.1:8000/ws 'market_data.*' 1000`

use tickcast_client::protocol::message::Start;
use tickcast_client::{Client, ClientEvent, ClientOptions, SubscribeOptions, text};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "ws://127.0.0.1:8000/ws".to_owned());
    let filter = arguments.next().unwrap_or_else(|| "market_data.*".to_owned());
    let mut left: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;

    let (client, _events) = Client::connect(ClientOptions::new(url)).await?;
    let options = SubscribeOptions { start: Start::SNAPSHOT, ..SubscribeOptions::default() };
    let mut subscription = client.subscribe(&filter, options).await?;
    while left > 0 {
        let Some(event) = subscription.next().await else { break };
        match event {
            ClientEvent::Data(data) => {
                println!("{}", text::one_line(&data));
                left -= 1;
            }
            ClientEvent::Gap(gap) => eprintln!("gap: {gap}"),
            other => eprintln!("{other:?}"),
        }
    }
    eprintln!("{:?}\n{:?}", client.totals(), client.stats());
    Ok(())
}
