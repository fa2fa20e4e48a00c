//! E-mail to several addresses, of which one is refused and one is put off.

use vmsync_tests::{
    mailhog::{Behaviour, Guard, MailHog},
    pair::{Pair, soon},
};

use crate::{channel, command, maintenance};

const TO: [&str; 3] = ["noc@example.com", "gone@example.com", "boss@example.com"];

#[tokio::test]
async fn of_several_addresses_each_has_every_alarm_once_and_one_that_is_refused_is_told_of() {
    let pair = Pair::laid_out().await;
    let server = MailHog::for_users(Guard::default()).await;
    let node = &pair.secondary;
    let port = server.smtp.port();
    node.configure_more(&format!(
        "[[smtp.sender]]\ndomain = \"example.com\"\nserver = \"127.0.0.1\"\nport = {port}\n\
         [[alarms.email]]\nname = \"noc\"\nto = {TO:?}\ncodes = [\"maintenance\", \"alarm_address_refused\"]\n"
    ));
    let gone = (TO[1].to_owned(), (550, "no such user".to_owned()));
    let full = (TO[2].to_owned(), (451, "try again".to_owned()));
    server.behave(Behaviour::to(vec![gone.clone(), full]));
    pair.start_both().await;
    let subjects = |to: &str| -> Vec<String> {
        let mails = server.mails_for(to);
        let subject = |m: &std::sync::Arc<_>| {
            vmsync_tests::mailhog::Item::header(m, "Subject")
                .unwrap_or_default()
                .to_owned()
        };
        let all: Vec<String> = mails.iter().map(subject).collect();
        all.iter()
            .map(|s| s.replace("[vmsync vmpro2] ", ""))
            .collect()
    };

    maintenance(node, true).await;
    soon("it to be tried again", async || {
        let stands = channel(node, "noc").await?;
        if stands["failures"].as_u64() > Some(1) {
            Ok(())
        } else {
            Err(stands.to_string())
        }
    })
    .await;
    // Who has it does not get it again, not even where somebody tests the channel meanwhile.
    let test = command(node, &["alarms", "test", "noc"]).await;
    assert_eq!(test.code, Some(1), "{test:?}");
    assert!(test.out.contains("451"), "{test:?}");
    server.behave(Behaviour::to(vec![gone]));
    let refused = node.alarm("alarm_address_refused").await;
    assert_eq!(refused["subject"], TO[1]);
    let words = refused["text"].as_str().unwrap();
    assert!(
        words.contains("550") && words.contains("no such user"),
        "{words}"
    );
    let told = [
        "raised: maintenance pair",
        "raised: alarm_address_refused gone@example.com",
    ];
    soon("the others to have both", async || {
        let [mut noc, boss] = [TO[0], TO[2]].map(&subjects);
        noc.retain(|s| s != "test: test noc");
        if noc == told && boss == told {
            Ok(())
        } else {
            Err(format!("{noc:?} {boss:?}"))
        }
    })
    .await;
    assert!(subjects(TO[1]).is_empty());

    // The address is taken again: it has what comes now, and the alarm ends.
    server.behave(Behaviour::default());
    maintenance(node, false).await;
    let ended = [
        "cleared: maintenance pair",
        "cleared: alarm_address_refused gone@example.com",
    ];
    soon("the end at all addresses", async || {
        let all = TO.map(&subjects);
        if all
            .iter()
            .all(|mails| mails.ends_with(&ended.map(str::to_owned)))
        {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    })
    .await;
    assert_eq!(subjects(TO[1]), ended);
    assert_eq!(subjects(TO[2]), [told, ended].concat(), "each once");
}

/// A content filter at the only address refuses one alarm for good: what comes behind it arrives, and the loss is told.
#[tokio::test]
async fn a_mail_that_is_refused_for_good_does_not_hold_those_behind_it() {
    let pair = Pair::laid_out().await;
    let server = MailHog::for_users(Guard::default()).await;
    let node = &pair.secondary;
    let port = server.smtp.port();
    node.configure_more(&format!(
        "[[smtp.sender]]\ndomain = \"example.com\"\nserver = \"127.0.0.1\"\nport = {port}\n\
         [[alarms.email]]\nname = \"noc\"\nto = [\"noc@example.com\"]\ncodes = [\"maintenance\"]\n"
    ));
    server.behave(Behaviour {
        end: Some((554, "looks like spam".to_owned())),
        ..Behaviour::default()
    });
    pair.start_both().await;
    maintenance(node, true).await;
    let dropped = node.alarm("alarm_channel_dropped").await;
    assert_eq!(dropped["subject"], "noc");
    assert!(server.mails_for("noc@example.com").is_empty());
    let stands = channel(node, "noc").await.unwrap();
    let error = stands["last_error"].to_string();
    assert!(error.contains("554") && error.contains("spam"), "{stands}");

    server.behave(Behaviour::default());
    maintenance(node, false).await;
    soon("the next alarm to arrive", async || {
        let mails = server.mails_for("noc@example.com");
        let stands = channel(node, "noc").await?;
        if mails.len() == 1 && stands["queued"] == 0 {
            Ok(())
        } else {
            Err(format!("{} mails, {stands}", mails.len()))
        }
    })
    .await;
}
