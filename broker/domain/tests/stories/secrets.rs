//! What must not be printed is not printed, whatever it stands in: a log line with `?` is one mistake away.

use countersign_domain::{
    Command,
    answer::{VerifiedAnswer, VerifiedTrialAnswer},
};

use crate::cast::{BROKER_ID, Phone, SignIn, at, given, opened, waiting};

/// As `Bytes` and strings print it, and as digits.
fn assert_hides(printed: &str, secret: &str) {
    assert!(!printed.contains(secret), "{secret} in {printed}");
}

#[test]
fn neither_states_nor_commands_nor_events_print_a_match_number() {
    // Six digits, so that it is in nothing else by chance.
    let number = "271828";
    for phone in Phone::both() {
        let it = SignIn::new(1, number, at(100));
        let story = given(waiting(&[&phone], &[&it]));
        let envelope = phone.approves(&it, number);
        let answer = VerifiedAnswer::verify(story.as_state(), BROKER_ID, &envelope).unwrap();
        assert_hides(&format!("{answer:?}"), number);
        assert_hides(&format!("{:?}", Command::SubmitAnswer(answer)), number);
        assert_hides(&format!("{:?}", it.command()), number);
        assert_hides(&format!("{:?} {:?}", it.requested(), it.approved(&phone, &envelope)), number);
        assert_hides(&format!("{:?}", it.number_wrong(&phone, &envelope)), number);
        assert_hides(&format!("{:?}", story.as_state()), number);
    }
}

#[test]
fn a_trial_prints_no_number_and_a_code_no_secret() {
    let phone = Phone::ed25519(1);
    let mut history = vec![opened()];
    history.extend(phone.on_trial(at(10)));
    let story = given(history);
    let envelope = phone.answers_trial("271828");
    let answer = VerifiedTrialAnswer::verify(story.as_state(), BROKER_ID, &envelope).unwrap();
    assert_hides(&format!("{:?}", Command::AnswerTrial(answer)), "271828");
    let code = phone.code();
    let secret = code.secret().expose();
    assert_hides(&format!("{:?} {:?}", phone.begin(), phone.begun(at(10))), secret);
    assert_hides(&format!("{:?}", story.as_state()), secret);
}

#[test]
fn a_push_target_prints_as_a_hash() {
    let phone = Phone::ed25519(1);
    let story = given(waiting(&[&phone], &[]));
    assert_hides(&format!("{:?}", story.as_state()), phone.push_target().token());
    assert_hides(&format!("{:?}", phone.enrolled(at(10))), phone.push_target().token());
}
